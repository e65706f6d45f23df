"""Where a run came from: the command, the versions, the machine, the times."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cryomorph import __version__
from cryomorph.io.atomic import atomic_path

LIBRARIES = ("numpy", "scipy", "torch")


def provenance() -> dict[str, Any]:
    """The facts of this process: what it was asked, with which versions, on what kind of machine."""
    return {
        "cryomorph": __version__,
        "command": ["cryomorph", *sys.argv[1:]],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    with atomic_path(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")
