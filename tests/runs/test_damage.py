"""Whatever happens to a file of a run, a store or an analysis: no command ends in a traceback."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from cryomorph.cli.main import main
from fixtures.damage import harms

SEEDS = int(os.environ.get("TRIALS", "32"))
FEW = range(0, 200, 8)
DRAWN = (".png", ".html", ".log")  # nothing reads them
QUICK = (
    "select RUN -o OUT/s.star --cluster 0 1",
    "select RUN -o OUT/s.txt --range pc1 -1 9",
    "split RUN -o OUT/a.star OUT/b.star --random 0.5",
    "decode RUN -o OUT/m --particles OUT/two.txt",
    "decode RUN -o OUT/m --particles OUT/two.txt --reconstruct",
    "decode RUN -o OUT/m --selection OUT/many.txt --reconstruct",
    "train linear STORE -o RUN --zdim 2 --iterations 2 --seed 1 --fix-poses --no-contrast --resume",
    "backproject RUN/particles -o OUT/b",
)
SLOW = (
    "analyze RUN --no-umap --clusters 3 --pcs 1 --pc-points 2",
    "landscape RUN --sketch 12 --states 2 --pairs 40 --trajectories 0",
    "traverse RUN --pc 1 --points 2 --movie none -o OUT/t",
    "compare RUN WHOLE -k 3 --points 2",
    "encode RUN SET/particles.star -o OUT/e",
)


@pytest.fixture(scope="module")
def whole(tiny_run, tmp_path_factory) -> Path:
    """The tiny run with an analysis and a landscape."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(tiny_run.path, folder, symlinks=True)
    for command in SLOW[:2]:
        assert main([str(folder) if word == "RUN" else word for word in command.split()]) == 0
    return folder


def hurt(seed: int, commands: tuple[str, ...], whole: Path, tmp_path: Path, tiny_set: Path) -> tuple[str, int, Path]:
    """Do one harm to one file of a copy of the run, and one command that may read it."""
    rng = np.random.default_rng(seed)
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(whole, run, symlinks=True)
    out.mkdir()
    (out / "two.txt").write_text("3\n9\n")
    (out / "many.txt").write_text("\n".join(map(str, range(0, 400, 2))))
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.suffix not in DRAWN)
    path = files[int(rng.integers(len(files)))]
    harm = harms(path)[int(rng.integers(len(harms(path))))]
    harm(path, rng)
    command = commands[int(rng.integers(len(commands)))]
    named = {"RUN": run, "OUT": out, "WHOLE": whole, "SET": tiny_set, "STORE": run / "particles"}
    if command.startswith("train"):
        (run / "model.safetensors").unlink(missing_ok=True)
        named["STORE"] = tiny_set / "particles.star"
    for name, where in named.items():
        command = re.sub(rf"(?<= ){name}\b", str(where), command)
    return f"{harm.__name__} {path.relative_to(run)}; {command}", main(command.split()), path


def check(told: tuple[str, int, Path], err: str) -> None:
    what, status, path = told
    assert "Traceback" not in err and "this is a bug" not in err, f"{what}\n{err[-3000:]}"
    assert status in (0, 2), f"{what}: exit {status}\n{err}"
    last = err.strip().splitlines()[-1] if err.strip() else ""
    assert status == 0 or path.stem.split("_")[0] in last, f"{what}: the file is not named: {last}"


@pytest.mark.unchecked
@pytest.mark.parametrize("seed", FEW)
def test_no_damage_ends_in_a_traceback(seed, whole, tmp_path, tiny_set, capsys):
    check(hurt(seed, QUICK, whole, tmp_path, tiny_set), capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1000 + SEEDS))
def test_no_damage_of_many_ends_in_a_traceback(seed, whole, tmp_path, tiny_set, capsys):
    check(hurt(seed, (*QUICK, *SLOW), whole, tmp_path, tiny_set), capsys.readouterr().err)
