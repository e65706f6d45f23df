"""Building a neural field's model: what its config says, noise models, and where the particles lie to begin with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.config.neural_field import NetworkConfig, NeuralFieldConfig, resolved
from cryomorph.config.training import TrainingConfig
from cryomorph.encoders.mlp import MlpEncoder
from cryomorph.encoders.table import TableEncoder
from cryomorph.representations.linear import LinearSubspace
from cryomorph.training.build import FIRST_SPREAD, LinearStart, build_model, first_lesson, noise_whitening
from cryomorph.training.distillation import Lesson
from cryomorph.training.stages.linear import Consensus


@pytest.fixture
def found():
    """A consensus whose noise has a power of its own in each shell, one of them above the store's."""
    noise = torch.linspace(0.2, 1.0, 9)
    noise[4] = 3.0
    return Consensus(torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(1)), torch.ones(9), noise)


@pytest.fixture
def lesson():
    generator = torch.Generator().manual_seed(2)
    point = torch.randn(400, 2, generator=generator) * torch.tensor([2.0, 0.5])
    return Lesson(point, torch.full_like(point, 0.25), point, shared=True)


def config(**changes):
    network = NetworkConfig(**{"width": 16, "layers": 2, **changes.pop("network", {})})
    training = TrainingConfig(**changes.pop("training", {}))
    asked = NeuralFieldConfig(Path("in"), Path("out"), zdim=2, network=network, training=training)
    return resolved(replace(asked, **changes))


def test_the_model_has_the_sizes_that_were_asked_for(tiny_store, found, lesson):
    asked = config(network={"width": 24, "layers": 5, "feature_share": 2.0})
    model = build_model(asked, tiny_store, found, lesson=lesson)
    shape = model.representation.shape
    assert (shape.box, shape.zdim, shape.width, shape.layers, shape.residual) == (16, 2, 24, 5, True)
    assert model.representation.frequencies.shape == (3, 32)
    assert isinstance(model.encoder, TableEncoder) and model.poses is None


def test_the_table_starts_where_the_lesson_says_and_its_spread_is_the_prior_s(tiny_store, found, lesson):
    model = build_model(config(), tiny_store, found, lesson=lesson)
    assert torch.equal(model.encoder.mean, lesson.point) and torch.equal(model.encoder.std, lesson.spread)
    point, spread = lesson.point.numpy().astype(float), lesson.spread.numpy().astype(float)
    expected = np.sqrt(point.var(0) + (spread**2).mean(0))
    np.testing.assert_allclose(model.prior_std, expected, rtol=1e-5)
    np.testing.assert_allclose(model.representation.latent_scale, expected, rtol=1e-5)


def test_the_paper_s_model_starts_from_nothing_with_a_standard_normal_prior(tiny_store, found):
    model = build_model(config(recipe="paper"), tiny_store, found, lesson=None)
    assert isinstance(model.encoder, MlpEncoder)
    assert model.encoder.count == tiny_store.disk.size
    assert not model.representation.shape.residual and not bool(model.encoder.residual)
    assert torch.equal(model.prior_std, torch.ones(2))
    assert torch.equal(model.representation.amplitude, torch.ones(9))
    # geometric along each axis, METHODS 3: the first row has the wavelengths of x and nothing else
    line = 16 * np.pi * (2 / 16) ** (np.arange(8) / 7)
    np.testing.assert_allclose(model.representation.frequencies[0, :8], line, rtol=1e-5)
    assert (model.representation.frequencies[0, 8:] == 0).all()


def test_an_encoder_s_band_limits_what_it_sees(tiny_store, found, lesson):
    asked = config(network={"encoder": "mlp", "encoder_band": 4.0, "encoder_width": 8, "encoder_layers": 1})
    encoder = build_model(asked, tiny_store, found, lesson=lesson).encoder
    assert encoder.count == tiny_store.disk.count(4.0) < tiny_store.disk.size
    assert encoder.input.weight.shape == (8, 2 * encoder.count) and len(encoder.hidden) == 1


def test_a_band_beyond_the_box_is_all_of_it(tiny_store, found, lesson):
    encoder = build_model(
        config(network={"encoder": "mlp", "encoder_band": 99.0}), tiny_store, found, lesson=lesson
    ).encoder
    assert encoder.count == tiny_store.disk.size


def test_without_a_latent_space_there_is_no_encoder(tiny_store, found):
    nothing = torch.zeros(400, 0)
    for lesson in (None, Lesson(nothing, nothing, nothing, shared=True)):
        model = build_model(config(zdim=0), tiny_store, found, lesson=lesson)
        assert model.encoder is None and model.representation.zdim == 0


def test_the_same_seed_builds_the_same_model_and_another_seed_another(tiny_store, found, lesson):
    one, same, other = (
        build_model(config(seed=seed), tiny_store, found, lesson=lesson).state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    for name in ("representation.frequencies", "representation.network.output.weight"):
        assert not torch.equal(one[name], other[name])


def test_poses_have_a_table_where_they_are_refined_against_the_field(tiny_store, found, lesson):
    """The default recipe has refined them before."""
    model = build_model(config(recipe="paper", training={"refine_poses": True}), tiny_store, found, lesson=None)
    assert torch.equal(model.poses.offset, torch.zeros(400, 5))
    model = build_model(config(training={"refine_poses": True}), tiny_store, found, lesson=lesson)
    assert model.poses is None


def test_radial_whitening_divides_by_the_lower_noise_of_store_and_consensus(tiny_store, found):
    """The store has unit noise: a shell where the consensus leaves 0.25 is twice as sure, and none is less sure."""
    shell = tiny_store.disk.shell.numpy()
    power = np.minimum(found.noise.numpy().astype(float), 1)
    power[0] = power[1]
    np.testing.assert_allclose(noise_whitening(tiny_store, found, "radial"), power[shell] ** -0.5, rtol=1e-5)


def test_white_whitening_gives_back_the_images_as_they_were_but_for_one_factor(tiny_store, found):
    """What was divided by each shell's amplitude is multiplied by it again, and the mean noise power is one."""
    factor = noise_whitening(tiny_store, found, "white").numpy().astype(float)
    amplitude = tiny_store.noise_amplitude.numpy().astype(float)[tiny_store.disk.shell.numpy()]
    np.testing.assert_allclose(factor / amplitude, factor[0] / amplitude[0], rtol=1e-5)
    assert (factor**2).mean() == pytest.approx(1, rel=1e-5)


def start_of(mean, spread=0.1):
    maps = torch.zeros(mean.shape[1] + 1, 8, 8, 8)
    return LinearStart(LinearSubspace(maps), mean, torch.full_like(mean, spread))


def test_the_linear_coordinates_are_taken_over_where_there_are_as_many():
    start = start_of(torch.randn(50, 3, generator=torch.Generator().manual_seed(1)))
    lesson = first_lesson(start, 3, seed=0)
    there = start.on_landscape(0)
    assert lesson.shared
    assert torch.equal(lesson.point, there.mean) and torch.equal(lesson.taught, there.mean)
    assert torch.equal(lesson.spread, there.std)


def test_coordinates_that_the_linear_model_lacks_start_at_zero_with_a_spread():
    start = start_of(torch.randn(50, 2, generator=torch.Generator().manual_seed(1)))
    lesson = first_lesson(start, 4, seed=0)
    assert not lesson.shared
    there = start.on_landscape(0)
    assert torch.equal(lesson.point[:, :2], there.mean) and (lesson.point[:, 2:] == 0).all()
    assert (lesson.spread[:, 2:] == FIRST_SPREAD).all() and torch.equal(lesson.taught, there.mean)
    assert (lesson.prior_std > 0).all()


def test_one_coordinate_runs_along_the_curve_of_several():
    """Three quarters of a circle in two of three coordinates: its angle is what one coordinate should order by."""
    generator = torch.Generator().manual_seed(4)
    angle = torch.rand(400, generator=generator) * 1.5 * torch.pi
    mean = torch.stack([angle.cos(), angle.sin(), 0 * angle], dim=1) + 0.03 * torch.randn(400, 3, generator=generator)
    start = start_of(mean, spread=0.03)
    lesson = first_lesson(start, 1, seed=0)
    assert lesson.point.shape == lesson.spread.shape == (400, 1) and not lesson.shared
    assert torch.equal(lesson.taught, start.on_landscape(0).mean)
    assert float(lesson.point.std()) == pytest.approx(1, rel=1e-4) and (lesson.spread > 0).all()
    ranks = np.argsort(np.argsort(np.stack([angle.numpy(), lesson.point[:, 0].numpy()])))
    assert abs(np.corrcoef(ranks)[0, 1]) > 0.99


def test_fewer_coordinates_than_the_linear_model_s_are_finite_and_one_for_each_particle():
    start = start_of(torch.randn(60, 4, generator=torch.Generator().manual_seed(1)))
    lesson = first_lesson(start, 2, seed=0)
    assert lesson.point.shape == lesson.spread.shape == (60, 2) and lesson.taught.shape == (60, 4)
    assert torch.isfinite(lesson.point).all() and (lesson.spread > 0).all() and not lesson.shared


def test_the_prior_of_a_linear_start_holds_the_uncertainty_of_its_particles():
    generator = torch.Generator().manual_seed(3)
    truth = 2 * torch.randn(20_000, 1, generator=generator)
    start = start_of(0.8 * truth, spread=1.2)  # posterior of an observation with noise: variances add up to 4
    assert float(start.prior_std) == pytest.approx(2, rel=0.02)


def test_without_a_latent_space_there_is_no_landscape_to_lie_on():
    start = start_of(torch.zeros(30, 0))
    assert start.on_landscape(0) is start


def test_what_is_unknown_of_a_map_leaves_the_noise_as_it_is_outside_the_particle(tiny_store):
    found = Consensus.unknown(tiny_store)
    assert torch.equal(found.map, torch.zeros(16, 16, 16)) and torch.equal(found.precision, torch.zeros(9))
    assert torch.equal(found.noise, torch.ones(9))
    assert torch.equal(noise_whitening(tiny_store, found, "radial"), torch.ones(tiny_store.disk.size))
