"""The config of `cryomorph analyze`: read from a command line, wrong values refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import tyro

from cryomorph.config.analyze import AnalyzeConfig
from cryomorph.config.errors import InputError


def test_command_line_fills_the_config():
    config = tyro.cli(AnalyzeConfig, args=["run", "-o", "out", "-k", "7", "--no-umap"])
    assert config == AnalyzeConfig(Path("run"), Path("out"), clusters=7, umap=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clusters": 0}, "clusters 0: expected 1 or more"),
        ({"pc_points": 1}, "--pc-points 1: expected 2 or more"),
        ({"outlier_z": -1.0}, "--outlier-z -1"),
        ({"umap_min_distance": 1.0}, "--umap-min-distance 1"),
        ({"box": 33}, "box 33: expected an even number"),
    ],
)
def test_wrong_values_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        AnalyzeConfig(Path("run"), **wrong)
