"""Reconstruction near a latent point: whose particles, how many, and whether the map is the state's own."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryomorph.analysis.neighbours import LocalMap, Neighbourhoods, _rings, reconstruct_near
from cryomorph.analysis.split import LatentSplit
from cryomorph.config.errors import InputError
from cryomorph.config.simulate import SimulateConfig
from cryomorph.io.mrc import read_map
from cryomorph.particles.metadata import read_particles
from cryomorph.particles.prepare import prepare
from cryomorph.physics.disk import fourier_disk
from cryomorph.runs.folder import RunFolder
from cryomorph.simulation.phantoms import PHANTOMS, Cloud, Conformations
from cryomorph.simulation.sets import simulate_set
from cryomorph.volumes.backproject import reconstruct, residual_noise

N = 2400


def two_states() -> Conformations:
    """A core with an arm on one side or on the other."""
    rng = np.random.default_rng(3)
    core, arm = rng.normal(0, 16, (60, 3)), rng.normal(0, 9, (30, 3))
    clouds = [np.concatenate([core, arm + at]).clip(-70, 70) for at in ([45.0, 0, 0], [0, 45.0, 0])]
    weight = np.ones(90)
    return Conformations(
        tuple(Cloud(cloud, weight) for cloud in clouds), np.full(2, 0.5), np.array([0.0, 1.0]), ("x", "y")
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of 2,400 particles of two states whose latent, made up here, tells them apart along its first axis."""
    folder: Path = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PHANTOMS, "uniform", two_states)
        simulate_set(SimulateConfig("uniform", folder / "set", n=N, box=16, pixel_A=14.0, snr=0.5, seed=1))
    with RunFolder.create(folder / "set" / "run", {"method": "linear"}, resume=False, overwrite=False) as made:
        pass
    store = prepare(read_particles(folder / "set" / "particles.star"), made.store_path, invert="no")
    consensus = reconstruct(store)
    made.save_consensus(consensus, residual_noise(store, consensus))
    latent = np.random.default_rng(0).normal(0, 0.2, (N, 2))
    latent[:, 0] += 2.0 * np.load(folder / "set" / "truth.npz")["label"] - 1
    made.save_latent(torch.tensor(latent).float(), torch.full((N, 2), 0.2))
    return made


@pytest.fixture(scope="module")
def shared_run(run: RunFolder) -> Neighbourhoods:
    return Neighbourhoods.of(run)


@pytest.fixture(scope="module")
def truth(run: RunFolder) -> np.ndarray:
    """The true maps of the two states."""
    return np.stack([read_map(run.path.parent / "maps" / f"{i:03d}.mrc")[0] for i in (0, 1)])


@pytest.fixture(scope="module")
def maps(shared_run) -> list[LocalMap]:
    return list(reconstruct_near(shared_run, np.array([[-1.0, 0.0], [1.0, 0.0]])))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(np.asarray(a).ravel(), np.asarray(b).ravel())[0, 1])


def test_each_state_gets_its_own_map(shared_run, maps, truth):
    consensus = shared_run.consensus.numpy()
    for state, found in enumerate(maps):
        own = correlation(found.map, truth[state])
        assert own > correlation(consensus, truth[state]) + 0.02
        assert own > correlation(found.map, truth[1 - state]) + 0.05
        assert found.map.shape == (16, 16, 16)
    assert correlation(maps[1].map - maps[0].map, truth[1] - truth[0]) > 0.85


def test_the_scale_is_that_of_the_consensus(shared_run, maps):
    """The two states' maps average to the map of all, not to a fraction of it."""
    mean = (maps[0].map + maps[1].map).flatten() / 2
    consensus = shared_run.consensus.flatten()
    assert float(mean @ consensus / (consensus @ consensus)) == pytest.approx(1, abs=0.12)


def test_particles_counted_are_those_of_a_neighbourhood(shared_run, maps):
    sizes = shared_run.sizes()
    assert all(found.particles in [*sizes, N] for found in maps)


def test_a_latent_that_says_nothing_gives_the_consensus(shared_run, truth):
    """Labels shuffled: the best that neighbours can give is the map of all."""
    shuffled = replace(shared_run, latent=np.random.default_rng(1).permutation(shared_run.latent))
    found = [local.map for local in reconstruct_near(shuffled, np.array([[-1.0, 0], [1.0, 0]]))]
    assert correlation(found[0], shared_run.consensus) > 0.97
    assert abs(correlation(found[1] - found[0], truth[1] - truth[0])) < 0.5


def test_the_same_point_gives_the_same_map(shared_run, maps):
    again = list(reconstruct_near(shared_run, np.array([[1.0, 0.0]])))
    assert torch.equal(again[0].map, maps[1].map)


@pytest.mark.parametrize("n", [16, 17, 100, 599, 2400])
def test_sizes_double_up_to_a_share(shared_run, n):
    sizes = replace(shared_run, latent=shared_run.latent[:n]).sizes()
    assert sizes == sorted(set(sizes))
    assert sizes[0] >= min(64, n // 3)
    assert sizes[-1] < n
    assert all(abs(large - 2 * small) <= 1 for small, large in pairwise(sizes[1:]))


@pytest.mark.unchecked  # of a run only what is looked at
@pytest.mark.parametrize("sizes", [[2, 4, 9], [5], [50, 1000, 5000]])
def test_rings_are_nested_disjoint_sorted_and_nearest(sizes):
    rng = np.random.default_rng(2)
    latent, target = rng.normal(size=(20_000, 3)).astype(np.float32), rng.normal(size=3)
    shared = SimpleNamespace(latent=latent, split=None, unit=np.ones(3), store=SimpleNamespace(disk=fourier_disk(8)))
    ((rings, kept),) = [zip(*[ring[0] for ring in _rings(shared, target, sizes)], strict=True)]
    assert set(kept) == {None}
    assert [len(ring) for ring in rings] == np.diff([0, *sizes]).tolist()
    assert all(bool((ring.diff() > 0).all()) for ring in rings)
    assert len(torch.cat(rings).unique()) == sizes[-1]
    order = np.argsort(np.linalg.norm(latent - target, axis=1))
    inside: set[int] = set()
    for ring, size in zip(rings, sizes, strict=True):
        inside |= set(ring.tolist())
        assert inside == set(order[:size].tolist())


@pytest.mark.unchecked
def test_particles_found_by_half_of_the_coefficients_give_the_other_half():
    rng = np.random.default_rng(3)
    halves = rng.normal(size=(2, 500, 2)).astype(np.float32)
    halves = halves - halves.mean(1, keepdims=True)
    whole = halves.mean(0)
    split = LatentSplit(whole, halves, whole)
    store = SimpleNamespace(disk=fourier_disk(16))
    shared = SimpleNamespace(latent=whole, split=split, unit=np.array([1.0, 0.5]), store=store)
    (((by_even, odd), (by_odd, even)),) = _rings(shared, np.zeros(2), [40])
    assert torch.equal(even, ~odd) and 0.3 < float(even.float().mean()) < 0.7
    assert bool(even[store.disk.shell == 1].all()) and not bool(even[store.disk.shell == 2].any())
    for found, points in ((by_even, halves[0]), (by_odd, halves[1])):
        distance = np.hypot(*(points / split.unit).T)
        assert set(found.tolist()) == set(np.argsort(distance)[:40].tolist())


def test_points_of_another_dimension_are_refused(shared_run):
    with pytest.raises(InputError, match=r"^latent points of dimension 3: expected 2$"):
        list(reconstruct_near(shared_run, np.zeros((1, 3))))


def test_too_few_particles_are_refused(shared_run):
    few = replace(shared_run, latent=shared_run.latent[:15])
    with pytest.raises(InputError, match=r"^15 particles are too few"):
        list(reconstruct_near(few, np.zeros((1, 2))))


def test_neighbourhoods_of_a_run(tiny_run):
    shared = Neighbourhoods.of(tiny_run)
    assert torch.equal(shared.consensus, tiny_run.consensus_map())
    assert torch.equal(shared.halves[1], tiny_run.consensus_map("half2"))
    np.testing.assert_array_equal(shared.latent, tiny_run.latent_mean())
    assert shared.window_px > 0
