"""Where a run came from: the command, the versions, the machine, the times."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from cryomorph import __version__
from cryomorph.io.json_file import read_record, write_json
from cryomorph.io.owner import command_line

PROVENANCE = "provenance.json"
LIBRARIES = ("numpy", "scipy", "torch")


@dataclass(frozen=True)
class Provenance:
    """What a process was asked, with which versions, on what kind of machine; `started` is in ISO format, UTC."""

    cryomorph: str
    command: list[str]
    started: str
    python: str
    libraries: dict[str, str]
    platform: str
    cpus: int | None

    @classmethod
    def of_this_process(cls) -> Provenance:
        """The facts of this process."""
        return cls(
            cryomorph=__version__,
            command=command_line(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            python=platform.python_version(),
            libraries={name: version(name) for name in LIBRARIES},
            platform=platform.platform(),
            cpus=os.cpu_count(),
        )

    @classmethod
    def read(cls, folder: Path) -> Provenance:
        """What a run folder says.

        Raises:
            InputError: the file is missing or damaged.
        """
        return read_record(cls, folder / PROVENANCE, again="put it back, or train again with --overwrite")

    def write(self, folder: Path) -> None:
        """Write the facts into a run folder."""
        write_json(folder / PROVENANCE, asdict(self))
