"""The referee's hinge: what the convolutional volume must reach, by the referee's own scores."""

from __future__ import annotations

import json

import pytest

from cryomorph.cli.main import main

pytestmark = pytest.mark.accept


def test_latent_and_maps_know_the_coordinate(referee, hinge, bounds):
    run, maps, index = hinge / "run_conv", hinge / "maps_conv", hinge / "index.txt"
    assert main(["train", "conv-volume", str(hinge / "particles.star"), "-o", str(run), "--zdim", "4"]) == 0
    assert main(["decode", str(run), "-o", str(maps), "--particles", str(index)]) == 0
    found = referee("score.py", hinge, "--volumes", maps, "--index", index, "--z", run / "latent_mean.npy")
    score = json.loads(found)
    floor, ceiling = bounds["consensus_moving"], bounds["oracle_moving"]
    closed = (score["auc_moving"] - floor) / (ceiling - floor)
    print(score, bounds, closed)
    assert score["knn_r2"] >= 0.95
    assert closed >= 0.85
