"""One writer at a time: a folder's lock file names the process that writes there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from cryomorph.config.errors import InputError
from cryomorph.io.owner import Owner

LOCK = ".lock"
TRIES = 50


@dataclass(frozen=True)
class FolderLock:
    """A lock that this process holds, until `release`."""

    path: Path
    owner: Owner

    @classmethod
    def acquire(cls, folder: Path) -> FolderLock:
        """Lock a folder that exists; the lock of a process that ended on this host is taken over.

        Raises:
            InputError: another process holds it.
            OSError: no file can be made there.
        """
        mine = cls(folder / LOCK, Owner.this())
        for _ in range(TRIES):
            with _opened(mine.path) as file:
                if file is None:  # its holder has just let go of it
                    time.sleep(0.01)
                    continue
                other = Owner.parse(file.read())
                if other is not None and not other.is_dead:
                    raise InputError(in_use(folder, other))
                try:
                    file.truncate(0)
                    file.write(mine.owner.text())
                    file.flush()
                except OSError:  # a full disk
                    mine.release()
                    raise
                return mine
        raise InputError(f"{folder} is being taken by several processes at once: try again")

    def release(self) -> None:
        """Let go of the folder, in the process that locked it; a fork of it holds nothing."""
        if os.getpid() == self.owner.pid:
            self.path.unlink(missing_ok=True)


def holder(folder: Path) -> Owner | None:
    """The process that has locked a folder; None without one, or where it has ended."""
    try:
        found = Owner.parse((folder / LOCK).read_text(errors="replace"))
    except OSError:
        return None
    return None if found is None or found.is_dead else found


def in_use(folder: Path, owner: Owner) -> str:
    """That a folder is locked, by whom, and what to do."""
    way_out = "wait for it" if owner.is_here else f"if that process has ended, remove {folder / LOCK}"
    return (
        f"{folder} is being written by PID {owner.pid} ({owner.command}) on {owner.host} since {owner.since}: "
        f"{way_out}, or give another -o"
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO | None]:
    """The lock file, made where it is missing and read by no other process meanwhile; None where it has gone again."""
    with path.open("a+", errors="replace") as file:
        with contextlib.suppress(OSError):  # some network disks know no such locks
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            same = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            same = False
        file.seek(0)
        yield file if same else None
