"""Files that are written whole or not at all, and what is left of them where a process was killed meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from zlib import crc32

from cryomorph.config.errors import InputError
from cryomorph.io.begun import WRITING
from cryomorph.io.owner import host, is_alive

# .NAME-<host, process, random: 8 hexadecimal digits each>.SUFFIX
TEMPORARY = re.compile(r"\..+-(?P<host>[0-9a-f]{8})(?P<pid>[0-9a-f]{8})[0-9a-f]{8}(?:\.[^.]*)?")
# as they were named before the first release: they do not say whose they are
UNNAMED = re.compile(r"\..+-[0-9a-f]{12}(?:\.[^.]*)?|\.(?:landscape|motions|particles)-[a-z0-9_]{8}")
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, renamed onto `path` on success and removed on failure.

    The folder is made where it is missing; the suffix is kept, since libraries choose a format by it.
    """
    path = Path(path)
    WRITING.set()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """A hidden name in the same folder that says whose it is; see `is_leftover`."""
    token = f"{_host_number():08x}{os.getpid():08x}{secrets.token_hex(4)}"
    return path.with_name(f".{path.stem}-{token}{path.suffix}")


def is_temporary(path: Path) -> bool:
    """Whether a name is a temporary one, of any process."""
    return any(pattern.fullmatch(path.name) for pattern in (TEMPORARY, UNNAMED))


def is_leftover(path: Path) -> bool:
    """Whether a path is a temporary one whose process has ended."""
    found = TEMPORARY.fullmatch(path.name)
    if found is None:
        return UNNAMED.fullmatch(path.name) is not None
    return int(found["host"], 16) == _host_number() and not is_alive(int(found["pid"], 16))


def check_output(path: Path, *, inputs: Iterable[Path | None] = (), overwrite: bool = False) -> None:
    """Refuse a file that cannot or must not be written, before anything is computed.

    Args:
        inputs: files that the command reads: none of them is ever replaced.

    Raises:
        InputError: `path` is a folder or a device, is one of the inputs, exists without `overwrite`, or lies where
            nothing can be written.
    """
    for given in inputs:
        if given is not None and same_place(path, given):
            raise InputError(f"{path} is one of the files that are read: give another name to write to")
    if path.is_dir():
        raise InputError(f"{path} is a folder: expected a file name")
    if path.exists():
        if not path.is_file():
            raise InputError(f"{path} is not a regular file: give another name to write to")
        if not overwrite:
            raise InputError(f"{path} exists already: give --overwrite to replace it, or another -o")
    check_writable(next(folder for folder in path.absolute().parents if folder.exists()), path)


def check_writable(folder: Path, asked: Path) -> None:
    """Refuse a folder in which no file can be made: told by making one, since rights alone do not say it.

    Args:
        asked: what is to be written, for the message.

    Raises:
        InputError: no right to write, a read-only disk, or a file where a folder is expected.
        OSError: the disk is full.
    """
    probe = temporary_path(folder / "probe")
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise refusal(asked, error) from error


def refusal(path: Path, error: OSError) -> Exception:
    """Why a path cannot be written to, in a sentence; a full disk remains the error that it is."""
    if error.errno in FULL:
        return error
    return InputError(f"{path} cannot be written to ({(error.strerror or str(error)).lower()}): give another -o")


def same_place(a: Path, b: Path) -> bool:
    """Whether two paths are one file or folder, links followed."""
    try:
        return a.samefile(b)
    except OSError:
        return a.resolve() == b.resolve()


def _host_number() -> int:
    return crc32(host().encode())
