"""Particles chosen by half of their coefficients: structure stays, noise does not choose itself."""

import numpy as np
import pytest

from cryomorph.analysis.split import LatentSplit


def split_of(truth: np.ndarray, noise: float, seed: int = 0) -> LatentSplit:
    """Latent points of two halves with independent noise, and of both together, shrunk as posteriors are."""
    rng = np.random.default_rng(seed)
    n, q = truth.shape
    seen = truth + noise * 2**0.5 * rng.normal(size=(2, n, q))
    signal = truth.var(0) + 1e-12
    halves = seen * signal / (signal + 2 * noise**2)
    whole = seen.mean(0) * signal / (signal + noise**2)
    return LatentSplit(whole.astype(np.float32), halves.astype(np.float32), whole.astype(np.float32))


def test_a_state_is_found_by_each_half():
    state = np.random.default_rng(1).integers(0, 2, 2000)
    split = split_of(np.c_[3.0 * state, np.zeros(2000)], 0.6)
    crossed = split.crossed(np.flatnonzero(state == 1))
    for chosen in (crossed.by_even, crossed.by_odd):
        assert len(chosen) == state.sum()
        assert state[chosen.numpy()].mean() > 0.95
        assert bool((chosen.diff() > 0).all())


def test_what_noise_put_together_is_not_found_together_again():
    """Clusters of pure noise: by one half, those that the other half's noise moved there are missed."""
    rng = np.random.default_rng(2)
    halves = rng.normal(size=(2, 3000, 2)).astype(np.float32)
    whole = halves.mean(0)
    crossed = LatentSplit(whole, halves, whole).crossed(np.flatnonzero(whole[:, 0] > 0.5))
    even, odd = (set(part.tolist()) for part in (crossed.by_even, crossed.by_odd))
    chance = len(even) * len(odd) / 3000
    assert len(even & odd) == pytest.approx(chance, rel=0.25)


def test_a_selection_that_is_no_region_is_left_alone():
    split = split_of(np.random.default_rng(3).normal(size=(1000, 3)), 0.3)
    assert split.crossed(np.random.default_rng(4).permutation(1000)[:300]) is None
    assert split.crossed(np.arange(1000)) is None
    assert split.crossed(np.arange(0)) is None


def test_a_place_is_where_half_of_the_coefficients_find_it():
    truth = np.random.default_rng(5).normal(size=(50_000, 2))
    split = split_of(truth, 0.8)
    near = np.hypot(*(truth - [1.5, 0.0]).T) < 0.1
    place = split.whole[near].mean(0)
    for half in (0, 1):
        np.testing.assert_allclose(split.seen_by(half, place), split.halves[half][near].mean(0), atol=0.06)


def test_the_unit_is_the_uncertainty_of_a_point():
    truth = np.random.default_rng(6).normal(size=(20_000, 1)) * 10
    np.testing.assert_allclose(split_of(truth, 0.7).unit, 0.7, rtol=0.05)


def test_a_point_of_a_network_is_placed_among_its_neighbours():
    rng = np.random.default_rng(7)
    whole = rng.normal(size=(5000, 2)).astype(np.float32)
    latent = np.c_[np.tanh(whole[:, 0]), whole[:, 1], whole[:, 0] * whole[:, 1]].astype(np.float32)
    split = LatentSplit(whole, np.stack([whole, whole]), latent)
    target = np.array([np.tanh(0.5), -0.3, -0.15])
    np.testing.assert_allclose(split.placed(target), [0.5, -0.3], atol=0.1)


def test_a_particle_has_no_vote_on_itself():
    """The only one of its kind: whoever is placed there instead, it is not by its own point."""
    points = np.random.default_rng(8).normal(size=(400, 2)).astype(np.float32)
    split = LatentSplit(points, np.stack([points, points]), points)
    for alone in (3, 77, 250):
        member = np.arange(400) == alone
        assert not split._voted(0, member)[alone]
        assert split._voted(0, member).sum() == 1
