"""The referee's programs and its hinge, for every test that is judged by them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def referee(shared: Path):
    """Runs one of the referee's programs and returns what it prints."""

    def run(program: str, *words: object) -> str:
        command = [sys.executable, str(shared / "referee" / program), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return run


@pytest.fixture(scope="session")
def hinge(referee, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("referee") / "hinge"
    referee("simulate.py", "hinge", folder, "-n", 5000, "--box", 32, "--apix", 8, "--seed", 1)
    (folder / "index.txt").write_text(referee("score.py", folder, "--pick", 100))
    return folder


@pytest.fixture(scope="session")
def bounds(referee, hinge) -> dict[str, float]:
    """The referee's consensus (floor) and oracle (ceiling)."""
    return json.loads(referee("ceiling.py", hinge))
