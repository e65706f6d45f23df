"""What every trained method can do: the disentanglement prior, orientations in doubt, the best model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryomorph.commands.train import train
from cryomorph.config.conv_volume import ConvConfig, ConvVolumeConfig, conv_volume_by_recipe
from cryomorph.config.errors import InputError
from cryomorph.config.gaussians import GaussiansConfig, MixtureConfig, gaussians_by_recipe
from cryomorph.config.neural_field import NetworkConfig, NeuralFieldConfig, neural_field_by_recipe
from cryomorph.config.training import TrainingConfig
from cryomorph.runs.folder import RunFolder

SHORT = TrainingConfig(epochs=2, precision="float32", device="cpu", batch_size=20)
METHODS = {
    "conv-volume": (ConvVolumeConfig, ConvConfig(channels=4, hidden=16), conv_volume_by_recipe),
    "gaussians": (
        GaussiansConfig,
        MixtureConfig(gaussians=30, width=16, layers=2),
        gaussians_by_recipe,
    ),
    "neural-field": (NeuralFieldConfig, NetworkConfig(width=16, layers=1), neural_field_by_recipe),
}


@pytest.fixture(params=sorted(METHODS))
def method(request, tiny_store, tmp_path):
    """A short config of a method, and what fills in its recipe."""
    kind, network, by_recipe = METHODS[request.param]
    config = kind(tiny_store.folder, tmp_path / "run", zdim=2, network=network, training=SHORT, warm_steps=20, seed=1)
    return config, by_recipe


def joint_rows(run: RunFolder) -> list[dict[str, object]]:
    rows = map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row.get("stage") == "joint"]


def test_the_disentanglement_prior_moves_a_table_s_points(method):
    config, _ = method
    pulled, weightless = replace(SHORT, prior="disentangle"), replace(SHORT, prior="disentangle", prior_weight=0.0)
    run = train(replace(config, training=pulled))
    plain = train(replace(config, output=config.output.with_name("plain"), training=weightless))
    rows = joint_rows(run)
    assert all(float(row["disentanglement"]) > 0 for row in rows)
    # 380 are not held out; none of a class's tail is left out
    assert sum(int(row["images"]) for row in rows) == 2 * 380
    assert run.model_facts()["latents"] == "table"
    assert float(np.abs(run.latent_mean() - plain.latent_mean()).max()) > 1e-3


def test_the_paper_s_recipe_trains_under_the_checks_of_shapes(method):
    """Tests of single methods, which train by it too, run without them."""
    config, _ = method
    short = TrainingConfig(epochs=1, precision="float32", device="cpu", batch_size=20)
    run = train(replace(config, recipe="paper", training=short, warm_steps=None))
    assert run.is_complete and np.isfinite(run.latent_mean()).all()


def test_a_prior_that_could_do_nothing_is_refused(method):
    config, _ = method
    for plan, zdim, message in (
        (replace(SHORT, prior="disentangle"), 0, "--zdim 0 has none"),
        (replace(SHORT, prior="disentangle", latent_rate=0.0), 2, "--latent-rate 0 fixes those of a table"),
        (replace(SHORT, final_model="best", held_out=0.0), 2, "give a --held-out above 0"),
        (replace(SHORT, final_model="best", radius_share=1.0), 2, "--radius-share below 1"),
    ):
        with pytest.raises(InputError, match=message):
            train(replace(config, training=plan, zdim=zdim))
        assert not config.output.exists()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_orientations_in_doubt_are_another_training(method, precision):
    config, _ = method
    run = train(replace(config, training=replace(SHORT, pose_spread=3.0, precision=precision)))
    exact = train(replace(config, output=config.output.with_name("exact")))
    losses = [np.mean([float(row["nll"]) for row in joint_rows(each)]) for each in (run, exact)]
    # nine orientations, of which the right one is one: by no more than log 9 nats of an image's 96 coefficients
    assert 0 < abs(losses[0] - losses[1]) < np.log(9) / 96
    assert np.isfinite(run.latent_mean()).all()


def test_a_table_under_the_prior_is_given_a_rate(method):
    config, by_recipe = method
    assert by_recipe(replace(config, training=TrainingConfig(prior="disentangle"))).training.latent_rate == 0.3
    asked = TrainingConfig(prior="disentangle", latent_rate=0.1)
    assert by_recipe(replace(config, training=asked)).training.latent_rate == 0.1
    plain = by_recipe(replace(config, training=TrainingConfig()))
    assert plain.training.latent_rate == (0.0 if isinstance(config, NeuralFieldConfig) else 0.3)
    assert (plain.training.held_out, plain.training.final_model, plain.training.prior) == (0.05, "last", "normal")


def test_the_paper_recipe_of_opus_dsd_is_its_own():
    found = conv_volume_by_recipe(ConvVolumeConfig(Path("p"), Path("o"), recipe="paper"))
    plan, network = found.training, found.network
    assert (plan.prior, plan.prior_weight, plan.held_out, plan.final_model) == ("disentangle", 0.5, 0.1, "best")
    assert (plan.learning_rate, plan.rate_schedule, plan.batch_size, plan.beta_schedule) == (
        1e-4,
        "decay",
        72,
        "cyclic",
    )
    # the paper's weight of the divergence, 0.01, beside a likelihood in nats
    assert (plan.beta or 0) / 2 == pytest.approx(0.01)
    assert (network.encoder, network.tv, network.l1) == ("conv", 1.0, 0.3)
