"""The referee's hinge: what the linear method must reach, by the referee's own scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cryomorph.cli.main import main

pytestmark = pytest.mark.accept


@pytest.fixture(scope="module")
def run(hinge) -> Path:
    folder = hinge / "run"
    assert main(["train", "linear", str(hinge / "particles.star"), "-o", str(folder), "--zdim", "4"]) == 0
    return folder


def test_latent_knows_the_coordinate(referee, hinge, run):
    score = json.loads(referee("score.py", hinge, "--z", run / "latent_mean.npy"))
    print(score)
    assert score["knn_r2"] >= 0.94


def test_reconstructed_maps_close_the_gap(referee, hinge, run, bounds):
    maps = hinge / "maps_reconstructed"
    where = ["--particles", str(hinge / "index.txt"), "--reconstruct"]
    assert main(["decode", str(run), "-o", str(maps), *where]) == 0
    score = json.loads(referee("score.py", hinge, "--volumes", maps, "--index", hinge / "index.txt"))
    floor, ceiling = bounds["consensus_moving"], bounds["oracle_moving"]
    closed = (score["auc_moving"] - floor) / (ceiling - floor)
    print(score, bounds, closed)
    assert closed >= 0.85


def test_back_projection_is_the_referee_s_consensus(referee, hinge, bounds):
    """One map for all: the same score as the referee's own, within 0.01."""
    assert main(["backproject", str(hinge / "particles.star"), "-o", str(hinge / "consensus")]) == 0
    maps = hinge / "same_map"
    maps.mkdir()
    numbers = (hinge / "index.txt").read_text().split()
    for i in range(len(numbers)):
        (maps / f"{i:06d}.mrc").symlink_to(hinge / "consensus" / "map.mrc")
    score = json.loads(referee("score.py", hinge, "--volumes", maps, "--index", hinge / "index.txt"))
    print(score, bounds)
    assert score["auc"] == pytest.approx(bounds["consensus_auc"], abs=0.01)
