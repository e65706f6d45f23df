"""What options of `train gaussians` do to a whole run: poses of each conformation, one free unit, the correlation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.commands.train import train
from cryomorph.config.gaussians import GaussiansConfig, MixtureConfig
from cryomorph.config.simulate import SimulateConfig
from cryomorph.config.training import TrainingConfig
from cryomorph.io.star import read_star
from cryomorph.physics.symmetry import point_group
from cryomorph.representations.gaussians import Gaussians
from cryomorph.runs.corrections import with_corrected
from cryomorph.runs.folder import RunFolder
from cryomorph.simulation.sets import simulate_set
from cryomorph.training import trainer

# what trains here is trained with the checks of shapes in training/test_shared_options.py
pytestmark = pytest.mark.unchecked

SMALL = MixtureConfig(gaussians=30, parts=4, width=16, layers=2)
SHORT = TrainingConfig(epochs=2, precision="float32", device="cpu", held_out=0.1)


@pytest.fixture(scope="module")
def config(tiny_store) -> GaussiansConfig:
    """The shortest training, from the store; the output is to be replaced."""
    return GaussiansConfig(
        tiny_store.folder, Path("x"), zdim=2, network=SMALL, training=SHORT, neutral_steps=20, warm_steps=30, seed=1
    )


def recorded(run: RunFolder, stage: str) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["stage"] == stage]


@pytest.mark.parametrize(("epoch", "own"), [(1, [1, 2]), (2, [2])])
def test_poses_are_refined_against_the_model_after_an_epoch_and_at_the_end(config, tmp_path, epoch, own):
    """First by the linear stage; then at each particle's own conformation, from there."""
    training = replace(SHORT, refine_poses=True, pose_epoch=epoch)
    run = train(replace(config, output=tmp_path / "run", training=training))
    assert [row["round"] for row in recorded(run, "poses")] == own
    linear = with_corrected(run.path, run.given_store()).require_pose().rotation
    assert not torch.equal(linear, run.given_store().require_pose().rotation)
    assert not torch.equal(run.store().require_pose().rotation, linear)


def test_one_unit_of_a_trimer_is_free_and_every_particle_has_three_places(config, tmp_path):
    made = simulate_set(SimulateConfig("trimer", tmp_path / "set", n=200, box=16, pixel_A=16.0, snr=2.0, seed=2))
    asked = replace(config, particles=made / "particles.star", output=tmp_path / "run", symmetry="C3")
    run = train(replace(asked, network=replace(SMALL, gaussians=60)))
    model, z = run.representation(), torch.from_numpy(run.latent_mean())
    assert isinstance(model, Gaussians)
    assert len(z) == 600 == len(read_star(run.path / "particles.star")["particles"])
    assert sorted(set(model.free.tolist())) == [0, 1]
    assert 10 <= int(model.free.sum()) <= 30
    # the unit lies on one side: its copies' centres are far from its own
    neutral = model.neutral.position[0].detach()
    centre = neutral[model.free > 0].mean(0)
    others = point_group("C3")[1:].float() @ centre
    assert bool(((neutral[model.free > 0] - centre).norm(dim=1).mean() < (others - centre).norm(dim=1)).all())
    moved = (model.at(z).position.detach() - neutral).norm(dim=2).amax(0)
    assert float(moved[model.free == 0].max()) < 1e-4 < float(moved[model.free > 0].min())


def test_the_correlation_is_what_is_minimised_where_it_is_asked_for(config, tmp_path):
    """Of equal rings the loss is 1 less their mean correlation; unit noise alone makes a likelihood of 1 or more."""
    network = replace(SMALL, objective="frc", rings="equal")
    run = train(replace(config, output=tmp_path / "frc", network=network))
    other = train(replace(config, output=tmp_path / "likelihood"))
    losses, likelihoods = ([row["nll"] for row in recorded(each, "joint")] for each in (run, other))
    assert 0 < max(losses) < 0.9 < min(likelihoods)
    assert np.isfinite(losses).all()


def test_poses_that_were_to_be_refined_at_the_end_are_where_it_comes_early(config, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "flat", lambda losses, patience: True)
    training = replace(SHORT, epochs=4, patience=1, refine_poses=True, pose_epoch=3, radius_share=0.0)
    run = train(replace(config, output=tmp_path / "run", training=training))
    assert [row["epoch"] for row in recorded(run, "epoch")] == [1]
    assert [row["round"] for row in recorded(run, "poses")] == [4]
