"""The model of a neural field as its options describe it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.config.neural_field import NetworkConfig, NeuralFieldConfig, neural_field_by_recipe
from cryomorph.config.training import TrainingConfig
from cryomorph.encoders.mlp import MlpEncoder
from cryomorph.encoders.table import TableEncoder
from cryomorph.methods.neural_field import build_model, resolve
from cryomorph.training.consensus import Consensus
from cryomorph.training.distillation import DistillationTargets


@pytest.fixture
def found():
    """A consensus whose noise has a power of its own in each shell, one of them above the store's."""
    noise = torch.linspace(0.2, 1.0, 9)
    noise[4] = 3.0
    return Consensus(torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(1)), torch.ones(9), noise)


@pytest.fixture
def targets():
    generator = torch.Generator().manual_seed(2)
    point = torch.randn(400, 2, generator=generator) * torch.tensor([2.0, 0.5])
    return DistillationTargets(point, torch.full_like(point, 0.25), point, same_space=True)


@pytest.fixture
def config(tiny_store):
    """Makes resolved options; parts are given as dictionaries."""

    def make(**changes):
        given = options(**changes)
        return resolve(neural_field_by_recipe(given), tiny_store, torch.device("cpu"))

    return make


def options(**changes):
    network = NetworkConfig(**{"width": 16, "layers": 2, **changes.pop("network", {})})
    training = TrainingConfig(**changes.pop("training", {}))
    asked = NeuralFieldConfig(Path("in"), Path("out"), zdim=2, network=network, training=training)
    return replace(asked, **changes)


def test_the_model_has_the_sizes_that_were_asked_for(config, tiny_store, found, targets):
    asked = config(network={"width": 24, "layers": 5, "feature_share": 2.0})
    model = build_model(asked, tiny_store, found, targets=targets)
    shape = model.representation.shape
    assert (shape.box, shape.zdim, shape.width, shape.layers, shape.residual) == (16, 2, 24, 5, True)
    assert model.representation.frequencies.shape == (3, 32)
    assert isinstance(model.encoder, TableEncoder) and model.poses is None


def test_the_table_starts_from_the_targets_and_its_spread_is_the_prior_s(config, tiny_store, found, targets):
    model = build_model(config(), tiny_store, found, targets=targets)
    assert torch.equal(model.encoder.mean, targets.point) and torch.equal(model.encoder.std, targets.spread)
    point, spread = targets.point.numpy().astype(float), targets.spread.numpy().astype(float)
    expected = np.sqrt(point.var(0) + (spread**2).mean(0))
    np.testing.assert_allclose(model.prior_std, expected, rtol=1e-5)
    np.testing.assert_allclose(model.representation.latent_scale, expected, rtol=1e-5)


def test_the_paper_s_model_starts_from_nothing_with_a_standard_normal_prior(config, tiny_store, found):
    model = build_model(config(recipe="paper"), tiny_store, found, targets=None)
    assert isinstance(model.encoder, MlpEncoder)
    assert model.encoder.count == tiny_store.disk.size
    assert not model.representation.shape.residual and not bool(model.encoder.residual)
    assert torch.equal(model.prior_std, torch.ones(2))
    assert torch.equal(model.representation.amplitude, torch.ones(9))
    # geometric along each axis, METHODS 3: the first row has the wavelengths of x and nothing else
    line = 16 * np.pi * (2 / 16) ** (np.arange(8) / 7)
    np.testing.assert_allclose(model.representation.frequencies[0, :8], line, rtol=1e-5)
    assert (model.representation.frequencies[0, 8:] == 0).all()


def test_an_encoder_s_band_limits_what_it_sees(config, tiny_store, found, targets):
    asked = config(network={"encoder": "mlp", "encoder_radius": 4.0, "encoder_width": 8, "encoder_layers": 1})
    encoder = build_model(asked, tiny_store, found, targets=targets).encoder
    assert encoder.count == tiny_store.disk.count(4.0) < tiny_store.disk.size
    assert encoder.input.weight.shape == (8, 2 * encoder.count) and len(encoder.hidden) == 1


def test_a_band_beyond_the_box_is_all_of_it(config, tiny_store, found, targets):
    encoder = build_model(
        config(network={"encoder": "mlp", "encoder_radius": 99.0}), tiny_store, found, targets=targets
    ).encoder
    assert encoder.count == tiny_store.disk.size


def test_without_a_latent_space_there_is_no_encoder(config, tiny_store, found):
    nothing = torch.zeros(400, 0)
    for targets in (None, DistillationTargets(nothing, nothing, nothing, same_space=True)):
        model = build_model(config(zdim=0), tiny_store, found, targets=targets)
        assert model.encoder is None and model.representation.zdim == 0


def test_the_same_seed_builds_the_same_model_and_another_seed_another(config, tiny_store, found, targets):
    one, same, other = (
        build_model(config(seed=seed), tiny_store, found, targets=targets).state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    for name in ("representation.frequencies", "representation.network.output.weight"):
        assert not torch.equal(one[name], other[name])


def test_poses_have_a_table_where_they_are_refined_against_the_field(config, tiny_store, found, targets):
    model = build_model(config(recipe="paper", training={"refine_poses": True}), tiny_store, found, targets=None)
    assert torch.equal(model.poses.offset, torch.zeros(400, 5))
    model = build_model(config(training={"refine_poses": False}), tiny_store, found, targets=targets)
    assert model.poses is None
