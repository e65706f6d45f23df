"""Convolutional volumes end to end: both recipes, the model chosen by held-out particles, resumed, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.commands.train import train
from cryomorph.config.conv_volume import ConvConfig, ConvVolumeConfig
from cryomorph.config.errors import InputError
from cryomorph.config.training import TrainingConfig
from cryomorph.representations.conv_volume import ConvVolume
from cryomorph.runs.checkpoint import load_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.training import loop
from cryomorph.training.checkpoints import BEST

# what trains here is trained with the checks of shapes in training/test_shared_options.py
pytestmark = pytest.mark.unchecked

SMALL = ConvConfig(channels=4, hidden=16, encoder_cube=16, encoder_channels=4)
SHORT = TrainingConfig(epochs=2, precision="float32", device="cpu", held_out=0.1, checkpoint_minutes=0.0)


@pytest.fixture(scope="module")
def config(tiny_store) -> ConvVolumeConfig:
    """The shortest training, from the store; the output is to be replaced."""
    return ConvVolumeConfig(
        tiny_store.folder, Path("nowhere"), zdim=2, network=SMALL, training=SHORT, warm_steps=60, seed=1
    )


@pytest.fixture(scope="module")
def paper(config) -> ConvVolumeConfig:
    training = TrainingConfig(epochs=3, precision="float32", device="cpu", batch_size=40, checkpoint_minutes=0.0)
    return replace(config, recipe="paper", training=training)


@pytest.fixture(scope="module")
def published(paper, tmp_path_factory) -> RunFolder:
    """The training of `paper`, uninterrupted."""
    return train(replace(paper, output=tmp_path_factory.mktemp("paper") / "run"))


def same(one: RunFolder, other: RunFolder) -> None:
    np.testing.assert_array_equal(one.latent_mean(), other.latent_mean())
    found, expected = one.model_tensors(), other.model_tensors()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_the_default_recipe_leaves_a_whole_run(config, tiny_set, tmp_path):
    run = train(replace(config, output=tmp_path / "run"))
    model = run.representation()
    assert isinstance(model, ConvVolume) and model.shape.side == 16
    assert run.model_facts()["encoder"] == "table"
    z, angle = run.latent_mean(), np.load(tiny_set / "truth.npz")["coord"]
    assert z.shape == (400, 2) and abs(np.corrcoef(z[:, 0], angle)[0, 1]) > 0.7
    checks = json.loads((run.path / "checks.json").read_text())
    assert 0.8 < checks["scale"] < 1.2 and checks["sign"] > 0.5
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert all(row["roughness"] > 0 for row in rows if row.get("stage") == "joint")


def test_the_paper_recipe_starts_from_nothing(published):
    model, rows = published.representation(), (published.path / "metrics.jsonl").read_text().splitlines()
    assert isinstance(model, ConvVolume) and not bool(model.base.any())
    assert published.model_facts()["encoder"] == "conv"
    assert not published.linear_start.exists()
    joint = [row for row in map(json.loads, rows) if row.get("stage") == "joint"]
    assert all(np.isfinite(row["disentanglement"]) for row in joint)
    # 12 classes, whose batches are of like size: 360 particles, none left out, in each of three epochs
    assert sum(row["images"] for row in joint) == 3 * 360


def test_the_model_with_the_least_held_out_loss_is_taken(published):
    rows = [json.loads(line) for line in (published.path / "metrics.jsonl").read_text().splitlines()]
    losses = [row["held_out"] for row in rows if row.get("stage") == "epoch"]
    facts = load_tensors(published.path / BEST)[1]
    assert int(facts["epoch"]) == 1 + int(np.argmin(losses))


def test_the_last_model_is_left_for_a_better_one(config, tmp_path, monkeypatch):
    """Where the last epoch spoils the model, that of the epoch before is written."""
    spoilt = loop.Trainer.finish_epoch

    def finish(self):
        if self.progress.epoch == 1:
            with torch.no_grad():
                for weight in self.optimiser.weights:
                    weight.mul_(-3)
        return spoilt(self)

    monkeypatch.setattr(loop.Trainer, "finish_epoch", finish)
    best = replace(config, output=tmp_path / "run", training=replace(SHORT, radius_share=0.0, final_model="best"))
    run = train(best)
    assert json.loads((run.path / "checks.json").read_text())["sign"] > 0.5
    assert "keeping the model of epoch 1" in (run.path / "run.log").read_text()
    spoilt_to_the_end = replace(best, output=tmp_path / "last", training=replace(best.training, final_model="last"))
    assert json.loads((train(spoilt_to_the_end).path / "checks.json").read_text())["sign"] < 0.5


@pytest.mark.parametrize("stopped_at", [("checkpoint", 2), ("checkpoint", 3), ("checkpoint", 4), ("keep_best", 2)])
def test_a_killed_training_goes_on_to_the_same_end(paper, published, tmp_path, monkeypatch, stopped_at):
    """The memory bank, the variation of inputs and the best model are where they were."""
    name, count = stopped_at
    monkeypatch.setattr(loop, "REPORT_EVERY", 5)
    original, calls = getattr(loop, name), []

    def stop(*given: object) -> None:
        original(*given)
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt

    cut = replace(paper, output=tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(loop, name, stop)
        with pytest.raises(KeyboardInterrupt):
            train(cut)
    resumed = train(replace(cut, resume=True))
    same(resumed, published)


def test_every_particle_is_encoded_at_the_end(published, tiny_store):
    """Held-out particles too: codes are the encoder's own under the final weights, not those that the bank kept."""
    from cryomorph.models.registry import encoder_from

    encoder = encoder_from("conv", published.model_tensors()).eval()
    batch = tiny_store.batch(torch.arange(400)).whitened(published.model_tensors()["whitening"])
    with torch.no_grad():
        np.testing.assert_allclose(encoder(batch).mean, published.latent_mean(), atol=1e-4)


def test_without_a_latent_space_it_is_one_map(config, tmp_path):
    run = train(replace(config, output=tmp_path / "run", zdim=0))
    assert run.latent_mean().shape == (400, 0) and (run.path / "map.mrc").is_file()
    assert json.loads((run.path / "checks.json").read_text())["sign"] > 0.8


def test_a_cube_that_convolutions_cannot_make_is_rounded_up(config, tmp_path):
    asked = replace(config, output=tmp_path / "run", network=replace(SMALL, cube=13), training=replace(SHORT, epochs=1))
    assert train(asked).representation().shape.side == 14


def test_poses_are_refined_against_the_volumes(paper, tmp_path, tiny_store):
    training = replace(paper.training, refine_poses=True, pose_epoch=2, epochs=3, learning_rate=3e-3, batch_size=8)
    run = train(replace(paper, output=tmp_path / "run", training=training))
    turned = run.store().require_pose().rotation - tiny_store.require_pose().rotation
    assert 0 < float(turned.abs().max()) < 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": replace(SMALL, cube=4)}, "--cube 4: expected 8 or more"),
        ({"network": replace(SMALL, cube=1000)}, "--cube 1000: expected 512 at most"),
        ({"network": replace(SMALL, tv=-1.0)}, "--tv -1.0: expected 0 or more"),
        ({"network": replace(SMALL, variation=2.0)}, "--variation 2.0: expected 1 at most"),
        ({"training": replace(SHORT, prior_weight=-0.5)}, "--prior-weight -0.5"),
        ({"training": replace(SHORT, pose_spread=90.0)}, "--pose-spread 90.0: expected 30 at most"),
        ({"recipe": "paper", "network": replace(SMALL, encoder="table")}, "--encoder table starts from the linear"),
        ({"particles": Path("not/there.star")}, "no such particle file or store"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(config, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(replace(config, output=tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
