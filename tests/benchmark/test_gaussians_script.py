"""The script that measures projections of Gaussians still runs; what it measures is not looked at."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gaussians.py"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("part", ["paper", "projection", "tables", "step"])
def test_every_table_is_printed(part, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--quick", "--parts", part])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) >= 3, "a head, a rule and at least one line of numbers"
    assert len({line.count("|") for line in lines}) == 1
