"""States of maps whose grouping is known: clouds, a rare one, lines and planes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from sklearn.metrics import adjusted_rand_score

from cryomorph.analysis.landscape import states
from cryomorph.analysis.landscape.states import find_states, state_maps, suggest, valley_between


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


CENTRES = np.array([[0, 0, 0], [6, 0, 0], [6, 6, 0], [6, 6, 6], [0, 6, 6]], dtype=float)


def clouds(rng: np.random.Generator, counts: tuple[int, ...], *, width: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Points about the five centres, shuffled, with their true number."""
    truth = rng.permutation(np.repeat(np.arange(5), counts))
    return CENTRES[truth] + width * rng.normal(size=(len(truth), 3)), truth


@pytest.mark.parametrize("method", ["average", "ward"])
def test_separate_clouds_are_states_the_rare_one_too(rng, method):
    sketch, group = clouds(rng, (140, 140, 130, 84, 6))
    particles, truth = clouds(rng, (3000, 3000, 2500, 1420, 80))
    found = find_states(sketch, particles, sketch_coordinates=sketch, count=5, method=method)
    assert adjusted_rand_score(group, found.sketch) == 1
    rare = found.particles == found.sketch[group == 4][0]
    assert (rare & (truth == 4)).sum() > 0.95 * 80
    assert (rare & (truth == 4)).sum() > 0.95 * rare.sum()
    assert found.suggestion.states == 5
    assert found.suggestion.clear


def test_states_are_numbered_by_their_particles(rng):
    sketch, _ = clouds(rng, (30, 60, 10, 20, 40))
    particles, truth = clouds(rng, (100, 20, 500, 300, 50))
    found = find_states(sketch, particles, sketch_coordinates=sketch, count=5)
    assert found.particle_counts == sorted(np.bincount(truth).tolist(), reverse=True)
    assert found.count == 5
    assert sum(found.volume_counts) == 160
    for state, middle in enumerate(found.middle):
        own = sketch[found.sketch == state]
        nearest = np.linalg.norm(own - own.mean(0), axis=1).argmin()
        np.testing.assert_array_equal(sketch[middle], own[nearest])


def test_a_particle_has_the_state_of_the_nearest_map(rng):
    sketch, particles = rng.normal(size=(80, 4)), rng.normal(size=(300, 4))
    found = find_states(sketch, particles, sketch_coordinates=sketch, count=7)
    nearest = np.linalg.norm(particles[:, None] - sketch, axis=2).argmin(1)
    np.testing.assert_array_equal(found.particles, found.sketch[nearest])


@pytest.mark.parametrize("method", ["average", "ward"])
@pytest.mark.parametrize("shape", ["line", "arc", "plane", "ball"])
def test_a_continuum_suggests_no_states(rng, method, shape):
    along = rng.uniform(-1, 1, 400)
    points = {
        "line": np.stack([along, 0 * along], axis=1),
        "arc": np.stack([np.sin(2.5 * along), np.cos(2.5 * along)], axis=1),
        "plane": rng.uniform(-1, 1, (400, 2)),
        "ball": rng.normal(size=(400, 3)),
    }[shape]
    points = points + 0.02 * rng.normal(size=points.shape)
    found = find_states(points, points, sketch_coordinates=points, count=4, method=method)
    assert not found.suggestion.clear


def test_the_step_is_between_the_distances_of_merging(rng):
    points, _ = clouds(rng, (50, 50, 50, 50, 50))
    found = suggest(points, points, np.arange(250))
    np.testing.assert_allclose(found.heights, linkage(points, "average")[::-1, 2][:21])
    assert found.gap == pytest.approx(found.heights[3] / found.heights[4])


@pytest.mark.parametrize(("apart", "low", "high"), [(0.5, 0.95, 2), (2, 0.95, 2), (4, 0.27, 0.37), (6, 0.02, 0.08)])
def test_a_valley_is_that_of_two_gaussians(rng, apart, low, high):
    """Two equal ones have one peak up to a distance of 2; half-way it is then `2 exp(-d^2 / 8)`, before smoothing."""
    a, b = rng.normal(size=(40_000, 3)), rng.normal(loc=(0, apart, 0), size=(40_000, 3))
    assert low <= valley_between(a, b) <= high


def test_a_rare_group_far_from_a_large_one_lies_apart(rng):
    large, rare = rng.normal(size=(20_000, 3)), rng.normal(loc=(0, 8, 0), size=(60, 3))
    assert valley_between(large, rare) < 0.3


def test_fewer_maps_than_states_can_be_told_apart():
    same = np.zeros((12, 3))
    found = find_states(same, same, sketch_coordinates=same, count=4)
    assert found.count == 1
    assert not found.suggestion.clear
    two = np.array([[0.0], [1.0]])
    assert suggest(two, two, np.arange(2)).states == 1


def test_maps_of_a_state_need_no_copy_of_the_sketch(rng, monkeypatch):
    """A state of a continuum may hold nearly all of it: 2.2 GB at box 128."""
    monkeypatch.setattr(states, "CHUNK", 700)
    values, labels = rng.normal(size=(50, 20_000)).astype(np.float32), np.zeros(50, dtype=np.int64)
    tracemalloc.start()
    mean, std = state_maps(values, labels, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.2 * values.nbytes
    np.testing.assert_allclose(mean, values.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, values.std(0), atol=1e-6)


def test_state_maps_are_means_and_standard_deviations(rng):
    values = rng.normal(size=(20, 100)).astype(np.float32)
    labels = np.arange(20) % 3
    mean, std = state_maps(values, labels, 1)
    np.testing.assert_allclose(mean, np.mean([values[i] for i in range(1, 20, 3)], axis=0), atol=1e-6)
    np.testing.assert_allclose(std, np.std([values[i] for i in range(1, 20, 3)], axis=0), atol=1e-6)
