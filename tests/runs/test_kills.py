"""Commands killed at every rename and at random times: the next one goes on, and ends as one that was never killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cryomorph.io.mrc import read_map
from fixtures.killing import Commands, commands

KILLS = int(os.environ.get("TRIALS", "32")) // 4  # of each of four commands
RENAMES = {"prepare": 16, "train": 45, "analyze": 40, "landscape": 60}  # that a command does, and a few more
SECONDS = {"prepare": 0.6, "train": 3.0, "analyze": 8.0, "landscape": 8.0}  # that it takes
OPTIONS = {
    "prepare": "",
    "train": "--zdim 2 --iterations 2 --seed 1",
    "analyze": "--no-umap --clusters 3 --pcs 1 --pc-points 2",
    "landscape": "--sketch 12 --states 2 --pairs 40 --trajectories 0",
}
EXACT = (".npy", ".star", ".csv", ".txt", ".cxc")


@dataclass(frozen=True)
class Trial:
    """Commands to be killed, and what each leaves when nothing happens to it."""

    cryomorph: Commands
    particles: Path
    run: Path
    whole: dict[str, dict[str, object]] = field(default_factory=dict)

    def words(self, command: str, run: Path) -> list[object]:
        """A command line that makes `run`, or makes something in it."""
        options = OPTIONS[command].split()
        if command in ("prepare", "train"):
            method = ["linear"] if command == "train" else []
            return [command, *method, self.particles, "-o", run, *options]
        return [command, run, *options]

    def begin(self, command: str, run: Path) -> None:
        """What has to be there before a command."""
        if command in ("analyze", "landscape"):
            shutil.copytree(self.run, run)

    def expected(self, command: str, folder: Path) -> dict[str, object]:
        """What a command leaves that is not killed."""
        if command not in self.whole:
            self.begin(command, folder)
            assert self.cryomorph.run(self.words(command, folder)) == 0
            self.whole[command] = left(folder)
            shutil.rmtree(folder)
        return self.whole[command]


@pytest.fixture(scope="module")
def trial(tiny_set, tiny_run, tmp_path_factory) -> Iterator[Trial]:
    with commands(tmp_path_factory.mktemp("server") / "errors") as cryomorph:
        yield Trial(cryomorph, tiny_set / "particles.star", tiny_run.path)


def left(folder: Path) -> dict[str, object]:
    """Everything in a folder by name: numbers to the last digit; of what says the time or is drawn only the name."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        name = path.relative_to(folder).as_posix()
        if path.suffix in EXACT:
            found[name] = path.read_bytes()
        elif path.suffix == ".safetensors":
            found[name] = {key: value.tobytes() for key, value in load_file(path).items()}
        elif path.suffix == ".mrc":
            found[name] = np.asarray(read_map(path)[0]).tobytes()
        else:
            found[name] = None
    return found


def kill_and_go_on(number: int, command: str, trial: Trial, folder: Path) -> None:
    """Kill a command, then go on as its user would, and compare what is left at the end.

    Every other time there is an older content that is to be replaced; every third kill is at a random time, the others
    are before a random rename.
    """
    rng = np.random.default_rng(number)
    run, expected = folder / "run", trial.expected(command, folder / "whole")
    words, replacing = trial.words(command, run), bool(number % 2)
    trial.begin(command, run)
    if replacing:
        assert trial.cryomorph.run(words) == 0
    overwrite = ["--overwrite"] if replacing and command in ("prepare", "train") else []
    when: dict[str, float] = {"rename": int(rng.integers(RENAMES[command]))}
    if number % 3 == 0:
        when = {"seconds": float(rng.uniform(0, SECONDS[command]))}
    status = trial.cryomorph.run([*words, *overwrite], **when)  # type: ignore[arg-type]
    assert status in (0, -9), f"killed at {when}: exit {status}"
    ways = []
    if status:
        # the same command; where it says that there is something, as it says
        ways = [overwrite, ["--resume"], ["--overwrite"]] if command in ("prepare", "train") else [[]]
        if command == "prepare":
            ways.remove(["--resume"])
    for way in ways:
        if trial.cryomorph.run([*words, *way]) == 0:
            break
    else:
        assert not ways, f"killed at {when}: none of {ways} goes on"
    found = left(run)
    assert [name for name in found if any(part.startswith(".") for part in name.split("/"))] == []
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert [path.name for path in folder.iterdir()] == ["run"]


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_a_killed_command_is_gone_on_with(command, trial, tmp_path):
    kill_and_go_on(0, command, trial, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", OPTIONS)
@pytest.mark.parametrize("number", range(100, 100 + KILLS))
def test_a_command_killed_at_any_moment_is_gone_on_with(number, command, trial, tmp_path):
    kill_and_go_on(number, command, trial, tmp_path)
