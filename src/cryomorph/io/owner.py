"""Which process writes a file or folder: known by host, number and start, so that one that has ended is told."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """A process that writes.

    `ticks` is its start as the kernel counts it (0 where it does not say), `job` the batch system's number (SLURM),
    `restart` how often that job was put back into the queue.
    """

    host: str
    pid: int
    ticks: int
    since: str
    command: str
    job: str = ""
    restart: int = 0

    @classmethod
    def this(cls) -> Owner:
        """The process that asks."""
        pid = os.getpid()
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        job, restart = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT") or "0"
        return cls(host(), pid, _start_ticks(pid), since, " ".join(command_line()), job, int(restart))

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """The process that a lock file names; None where the text names none: its writer was killed meanwhile."""
        try:
            found = json.loads(text)
            return cls(**found) if {type(found[name]) for name in ("pid", "ticks", "restart")} == {int} else None
        except (ValueError, TypeError, KeyError):
            return None

    def text(self) -> str:
        """What a lock file says."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this host."""
        return self.host == host()

    @property
    def is_dead(self) -> bool:
        """Whether it is known to have ended.

        Of another host it is not, but of a job that has been put back into the queue since.
        """
        mine = Owner.this()
        requeued = bool(self.job) and self.job == mine.job and self.restart < mine.restart
        return requeued or (self.is_here and not is_alive(self.pid, self.ticks))


def command_line() -> list[str]:
    """The command line of this process, as the user typed it."""
    return ["cryomorph", *sys.argv[1:]]


@lru_cache(maxsize=1)
def host() -> str:
    """Name of this machine."""
    return platform.node()


def is_alive(pid: int, ticks: int = 0) -> bool:
    """Whether a process of this host is running; with its start given, a later one of the same number is another."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    found = _start_ticks(pid)
    return found != -1 and (not ticks or not found or ticks == found)


def _start_ticks(pid: int) -> int:
    """When a process was started, in clock ticks since boot; -1 for one that has ended, 0 where it is not known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    state, *rest = text[text.rindex(")") + 2 :].split()  # the name before may hold anything
    return -1 if state in "ZX" else int(rest[18])
