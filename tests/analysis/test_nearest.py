"""Nearest particles against brute force over all distances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from cryomorph.analysis.nearest import nearest_others, nearest_points, nearest_to


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(300, 3))


def test_the_nearest_to_a_point_come_in_order(points):
    target = np.array([0.1, -0.2, 0.3])
    found = nearest_to(target, points, 7)
    np.testing.assert_array_equal(found, np.argsort(cdist(target[None], points)[0])[:7])


def test_of_equally_near_points_the_first_are_taken():
    assert nearest_to(np.zeros(1), np.array([[1.0], [-1], [2], [1]]), 2).tolist() == [0, 1]


def test_the_nearest_to_each_of_many(points):
    targets = np.random.default_rng(3).normal(size=(40, 3))
    np.testing.assert_array_equal(nearest_points(points, targets), cdist(targets, points).argmin(axis=1))


@pytest.mark.parametrize("particles", [None, np.array([5, 299, 0, 17])])
@pytest.mark.parametrize("chunk", [20_000, 64])
def test_a_particle_is_not_its_own_neighbour(points, particles, chunk, monkeypatch):
    monkeypatch.setattr("cryomorph.analysis.nearest.CHUNK", chunk)
    apart = cdist(points, points)
    np.fill_diagonal(apart, np.inf)
    apart = apart if particles is None else apart[particles]
    distance, index = nearest_others(points, 6, particles=particles)
    np.testing.assert_array_equal(index, np.argsort(apart, axis=1)[:, :6])
    np.testing.assert_allclose(distance, np.sort(apart, axis=1)[:, :6], rtol=1e-6)


def test_neighbours_of_equal_points_are_others():
    index = nearest_others(np.zeros((10, 2)), 3)[1]
    assert all(number not in row and len({*row}) == 3 for number, row in enumerate(index.tolist()))
