"""A curve in five dimensions as one coordinate: against arcs of known length and the posterior on the true curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group, spearmanr

from cryomorph.latents.isomap import curve_coordinate, isomap_coordinate

N = 800
LINE = np.array([1.0, 2.0, -1.0, 0.5, 1.5]) / np.linalg.norm([1.0, 2.0, -1.0, 0.5, 1.5])
NOISE = np.array([0.25, 0.4, 0.3, 0.5, 0.2])  # of each coordinate


def half_circle(t: np.ndarray) -> np.ndarray:
    angle = np.pi * t
    return np.stack([4 * np.cos(angle), 4 * np.sin(angle), 0 * t, 0 * t, 0 * t], axis=-1)


def spiral(t: np.ndarray) -> np.ndarray:
    """Three quarters of a turn, so that its first principal component folds."""
    angle, radius = 1.5 * np.pi * t, 3 + 2 * t
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), 0 * t, 0 * t, 0 * t], axis=-1)


@dataclass(frozen=True)
class Seen:
    """Noisy points on a curve: the true length to each, and its posterior mean and standard deviation by the truth."""

    points: np.ndarray
    noise: np.ndarray
    length: np.ndarray
    best: np.ndarray
    best_std: np.ndarray

    def curve_coordinate(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        return curve_coordinate_of(self.points, self.noise, seed)


def curve_coordinate_of(points: np.ndarray, noise: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Coordinate and spread in double precision of points with noise of these standard deviations."""
    information = np.broadcast_to(noise**-2.0, points.shape)
    found = curve_coordinate(torch.from_numpy(points).float(), torch.from_numpy(information.copy()).float(), seed=seed)
    along, spread = (part.double().numpy() for part in found)
    return along, spread


@pytest.fixture(scope="module", params=[half_circle, spiral])
def seen(request) -> Seen:
    """Uniform positions; noise that differs by coordinate and by up to a factor of two between particles."""
    rng = np.random.default_rng(0)
    t = rng.random(N)
    noise = NOISE * rng.uniform(0.7, 1.3, (N, 5))
    points = request.param(t) + noise * rng.normal(size=(N, 5))
    grid = np.linspace(0, 1, 1001)
    curve = request.param(grid)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    # the prior by length is that of uniform t, as in the grid
    distance = (((points[:, None] - curve) / noise[:, None]) ** 2).sum(-1)
    share = np.exp(-0.5 * (distance - distance.min(1, keepdims=True)))
    share /= share.sum(1, keepdims=True)
    best = share @ length
    best_std = np.sqrt(np.maximum(share @ length**2 - best**2, 0))
    return Seen(points, noise, np.interp(t, grid, length), best, best_std)


def gauge(along: np.ndarray, length: np.ndarray) -> np.polynomial.Polynomial:
    """The coordinate as a smooth function of true length: what its own, uneven, scale is along the curve."""
    return np.polynomial.Polynomial.fit(length, along, 7)


def test_a_curve_is_ordered_as_well_as_by_who_knows_it(seen):
    along, _ = seen.curve_coordinate()
    found, best = (abs(spearmanr(value, seen.length)[0]) for value in (along, seen.best))
    assert found > 0.99
    assert found > best - 5e-4


def test_the_coordinate_grows_along_the_whole_curve(seen):
    along, _ = seen.curve_coordinate()
    middle = np.linspace(0.03, 0.97, 60) * seen.length.max()
    slope = gauge(along, seen.length).deriv()(middle)
    assert (np.sign(slope) == np.sign(slope[0])).all()


def test_the_spread_is_the_error_in_the_coordinate_s_own_scale(seen):
    """In that scale at each place; one factor for the whole curve does not do, for the coordinate is not its length."""
    along, spread = seen.curve_coordinate()
    score = (along - gauge(along, seen.length)(seen.length)) / spread
    assert 0.8 < score.std() < 1.25
    assert np.abs(score).max() < 5
    for part in np.array_split(np.argsort(seen.length), 4):
        assert 0.6 < score[part].std() < 1.5


def test_the_spread_is_that_of_who_knows_the_curve(seen):
    along, spread = seen.curve_coordinate()
    slope = np.abs(gauge(along, seen.length).deriv()(seen.length))
    inner = np.abs(seen.length / seen.length.max() - 0.5) < 0.4
    ratio = spread[inner] / (slope * seen.best_std)[inner]
    assert np.median(ratio) == pytest.approx(1, abs=0.15)
    # and particle by particle the less known are those with more noise
    assert spearmanr(spread[inner] / slope[inner], seen.best_std[inner])[0] > 0.6


def test_the_result_has_mean_0_and_standard_deviation_1(seen):
    along, spread = seen.curve_coordinate()
    assert along.mean() == pytest.approx(0, abs=1e-5)
    assert along.std(ddof=1) == pytest.approx(1, rel=1e-5)
    assert (spread > 0).all() and (spread < 1).all()


def test_the_same_seed_gives_the_same_to_rounding(seen):
    """The sign too. Not to the last digit: Isomap's eigensolver starts from numpy's own random state."""
    for one, same in zip(seen.curve_coordinate(3), seen.curve_coordinate(3), strict=True):
        np.testing.assert_allclose(one, same, atol=1e-5)


def test_a_shift_changes_nothing_but_the_sign(seen):
    along, spread = seen.curve_coordinate()
    moved, width = curve_coordinate_of(seen.points + np.array([3.0, -2.0, 0.5, 1.0, -4.0]), seen.noise)
    same_but_for_sign(moved, along)
    np.testing.assert_allclose(width, spread, atol=1e-3)


@pytest.mark.parametrize("curve", [half_circle, spiral])
def test_with_equal_noise_a_rotation_changes_nothing_but_the_sign(curve):
    rng = np.random.default_rng(2)
    points = curve(rng.random(N)) + 0.3 * rng.normal(size=(N, 5))
    turn = ortho_group.rvs(5, random_state=1)
    noise = np.full(5, 0.3)
    along, spread = curve_coordinate_of(points, noise)
    turned, width = curve_coordinate_of(points @ turn.T, noise)
    same_but_for_sign(turned, along)
    np.testing.assert_allclose(width, spread, atol=1e-3)


def same_but_for_sign(found: np.ndarray, expected: np.ndarray) -> None:
    sign = np.sign(found @ expected)
    np.testing.assert_allclose(sign * found, expected, atol=5e-3)


def test_points_on_a_straight_line_are_projected_on_it():
    """With equal noise the posterior of a line is the projection; its noise is that of one coordinate."""
    rng = np.random.default_rng(3)
    points = 2 + 10 * rng.random((N, 1)) * LINE + 0.3 * rng.normal(size=(N, 5))
    along, spread = curve_coordinate_of(points, np.full(5, 0.3))
    projected = points @ LINE
    assert abs(np.corrcoef(along, projected)[0, 1]) > 0.9995
    assert abs(spearmanr(along, projected)[0]) > 0.9995
    assert np.median(spread) * projected.std() == pytest.approx(0.3, rel=0.1)


def test_coordinates_that_say_more_weigh_more():
    """The generalised least squares of a line, not the projection: noise ten times as large in two coordinates."""
    rng = np.random.default_rng(5)
    noise = np.array([0.15, 1.5, 0.15, 0.15, 1.5])
    points = 10 * rng.random((N, 1)) * LINE + noise * rng.normal(size=(N, 5))
    along, _ = curve_coordinate_of(points, noise)
    weighted = points @ (LINE / noise**2)
    assert abs(np.corrcoef(along, weighted)[0, 1]) > 0.998
    assert abs(np.corrcoef(along, points @ LINE)[0, 1]) < 0.97


@pytest.mark.parametrize("noise", [0.3, 0.6])
def test_three_clusters_apart_are_ordered_as_they_lie_on_their_arc(noise):
    rng = np.random.default_rng(4)
    label = rng.integers(0, 3, 600)
    t = np.array([0.05, 0.5, 0.95])[label] + 0.02 * rng.normal(size=600)
    points = half_circle(t) + noise * rng.normal(size=(600, 5))
    along, _ = curve_coordinate_of(points, np.full(5, noise))
    low, high = (np.array([pick(along[label == k]) for k in range(3)]) for pick in (np.min, np.max))
    if low[0] > low[2]:
        low, high = -high, -low
    assert high[0] < low[1] and high[1] < low[2]


def test_isomap_starts_from_the_length_along_the_curve():
    """Without noise the order is that of the curve, from -0.9 to 0.9, and so for points that are no landmarks."""
    t = np.random.default_rng(6).permutation(np.linspace(0, 1, 2500))
    along = isomap_coordinate(spiral(t).astype(np.float32)).numpy()
    assert along.min() == pytest.approx(-0.9) and along.max() == pytest.approx(0.9)
    assert abs(spearmanr(along, t)[0]) > 0.9999
