"""The spline from latent points to volume space, against functions that are known everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from cryomorph.analysis.landscape import embedding
from cryomorph.analysis.landscape.embedding import Spline, embed_particles
from cryomorph.latents.held_out import r2


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def bent(z: np.ndarray) -> np.ndarray:
    """A smooth function that no affine one is near."""
    return np.stack([np.sin(2 * z[:, 0]) + z[:, 1], z[:, 0] * z[:, 1], np.exp(-(z**2).sum(1))], axis=1)


def test_an_affine_map_is_exact_even_outside(rng):
    matrix, offset = rng.normal(size=(5, 3)), rng.normal(size=3)
    z = rng.normal(size=(60, 5))
    far = 10 * rng.normal(size=(20, 5))
    np.testing.assert_allclose(Spline.through(z, z @ matrix + offset)(far), far @ matrix + offset, atol=1e-4)


def test_a_smooth_function_is_met_at_the_points_and_between(rng):
    z = rng.uniform(-1, 1, (300, 2))
    spline = Spline.through(z, bent(z))
    np.testing.assert_allclose(spline(z), bent(z), atol=1e-5)
    between = rng.uniform(-0.9, 0.9, (500, 2))
    assert np.abs(spline(between) - bent(between)).max() < 5e-3


def test_a_point_given_twice_takes_the_mean():
    z = np.array([[0.0], [1.0], [2.0], [2.0]])
    values = np.array([[0.0], [1.0], [1.0], [3.0]])
    np.testing.assert_allclose(Spline.through(z, values)(z), [[0], [1], [2], [2]], atol=1e-6)


def test_a_collapsed_coordinate_does_no_harm(rng):
    z = np.column_stack([rng.uniform(-1, 1, (200, 2)), np.full(200, 0.7)])
    elsewhere = np.column_stack([rng.uniform(-0.9, 0.9, (50, 2)), np.full(50, 0.7)])
    np.testing.assert_allclose(Spline.through(z, bent(z[:, :2]))(elsewhere), bent(elsewhere[:, :2]), atol=0.01)


def test_all_particles_are_placed_from_a_few_maps(rng):
    z, asked = rng.uniform(-1, 1, (3000, 2)), []

    def locate(particle: int) -> np.ndarray:
        asked.append(particle)
        return bent(z[particle : particle + 1])[0].astype(np.float32)

    sketch = np.arange(0, 3000, 30)
    found = embed_particles(z, (sketch, bent(z[sketch]).astype(np.float32)), locate, most=1000)
    assert found.r2 > 0.98
    assert r2(bent(z), found.coordinates) > 0.999
    assert found.rounds == ((256, pytest.approx(found.r2)),)
    assert len(asked) == len(set(asked)) == 256
    assert not set(asked) & set(sketch.tolist())
    assert found.truth.shape == found.predicted.shape == (64, 3)


def test_r2_is_of_maps_that_the_spline_had_not_seen(rng):
    """Pure noise is met exactly at the points and predicted nowhere else: R^2 must not be near 1."""
    z = rng.normal(size=(400, 2))
    noise = rng.normal(size=(400, 2)).astype(np.float32)
    found = embed_particles(z, (np.arange(100), noise[:100]), lambda i: noise[i], most=4000)
    assert found.r2 < 0.1
    assert r2(noise, found.coordinates) > 0.999


def test_rounds_double_until_r2_holds(rng, monkeypatch):
    monkeypatch.setattr(embedding, "FIRST_ROUND", 32)
    monkeypatch.setattr(embedding, "SUFFICIENT_R2", 2.0)
    z = rng.uniform(-1, 1, (2000, 2))
    values = bent(3 * z).astype(np.float32)
    found = embed_particles(z, (np.arange(20), values[:20]), lambda i: values[i], most=100_000)
    pairs, scores = zip(*found.rounds, strict=True)
    assert pairs == tuple(32 * 2**i for i in range(len(pairs)))
    gains = np.diff(scores)
    assert (gains[:-1] >= embedding.MIN_GAIN).all()
    assert gains[-1] < embedding.MIN_GAIN


def test_no_more_maps_are_decoded_than_allowed(rng, monkeypatch):
    monkeypatch.setattr(embedding, "FIRST_ROUND", 32)
    monkeypatch.setattr(embedding, "SUFFICIENT_R2", 2.0)
    monkeypatch.setattr(embedding, "MIN_GAIN", -10.0)
    z = rng.normal(size=(300, 2))
    found = embed_particles(
        z, (np.arange(20), bent(z[:20]).astype(np.float32)), lambda i: bent(z[i : i + 1])[0].astype(np.float32), most=70
    )
    assert [pairs for pairs, _ in found.rounds] == [32, 64, 70]
