"""Rounds of poses and maps in half sets: what each half may know of the other, and poses that come nearer the truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.abinit import half_sets as pose_rounds
from cryomorph.abinit.half_sets import PosedHalfSets, polish_round, reconstruct_halves, search_round
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose, rotation_distance_deg
from cryomorph.poses.search import Level, SearchPlan
from cryomorph.volumes.backproject import reconstruct, residual_noise
from cryomorph.volumes.fsc import FscReport
from cryomorph.volumes.grid import rebox

N, BOX, PIXEL_A = 300, 16, 2.0
CPU = torch.device("cpu")
PLAN = SearchPlan((Level(1, 4.0, 16), Level(2, 6.0, 6)), 1.2)
SUBSET = torch.arange(0, N, 3)
UNIT = torch.ones(BOX // 2 + 1)


@dataclass(frozen=True)
class Moving:
    """Particles of whose poses nothing is known, what they truly are, and maps to compare them with."""

    store: ParticleStore
    true: Pose
    maps: torch.Tensor


@pytest.fixture(scope="module")
def blobs(blobs_of):
    return blobs_of.of(zdim=0, strength=12.0)


@pytest.fixture(scope="module")
def made(blobs, simulated, tmp_path_factory):
    """Images of blobs with unit noise, in half sets by turns, and their true poses."""
    return simulated(blobs, tmp_path_factory.mktemp("rounds") / "store", n=N)


@pytest.fixture(scope="module")
def store(made):
    return made.store.unposed()


@pytest.fixture(scope="module")
def true(made) -> Pose:
    return Pose(torch.from_numpy(made.rotation).float(), torch.from_numpy(PIXEL_A * made.shift_px).float())


def a_little_off(true: Pose) -> Pose:
    """By about 4 degrees and half a pixel."""
    rng = np.random.default_rng(1)
    turn = torch.from_numpy(Rotation.from_rotvec(np.radians(2.5) * rng.normal(size=(N, 3))).as_matrix()).float()
    return Pose(turn @ true.rotation, true.shift_A + torch.from_numpy(0.4 * PIXEL_A * rng.normal(size=(N, 2))).float())


def off(found: Pose, true: Pose, subset: torch.Tensor) -> tuple[float, float]:
    """Medians of how far poses are off, in degrees and pixels."""
    turned = rotation_distance_deg(found.rotation[subset], true.rotation[subset])
    away = torch.linalg.vector_norm(found.shift_A[subset] - true.shift_A[subset], dim=1) / PIXEL_A
    return float(turned.median()), float(away.median())


def searched(store, maps: torch.Tensor, **changes: object) -> PosedHalfSets:
    options = {"subset": SUBSET, "plan": PLAN, "noise": UNIT, "seed": 0, "device": CPU, "advance": lambda count: None}
    return search_round(store, maps, **(options | changes))


@pytest.fixture(scope="module")
def both(blobs) -> torch.Tensor:
    """The true map for both half sets: one of each."""
    return blobs.maps().repeat(2, 1, 1, 1, 1)


@pytest.fixture(scope="module")
def found(store, both) -> PosedHalfSets:
    return searched(store, both)


@pytest.fixture(scope="module")
def perturbed(store, true) -> PosedHalfSets:
    """All poses a little off, and the half maps that they give."""
    return reconstruct_halves(store, a_little_off(true), torch.arange(N), radius=8)


def test_a_search_finds_the_poses_of_its_subset_in_angstrom(found, true):
    turned, away = off(found.pose, true, SUBSET)
    assert turned < 3 and away < 0.15
    assert torch.equal(found.subset, SUBSET)
    others = torch.ones(N, dtype=torch.bool)
    others[SUBSET] = False
    assert torch.equal(found.pose.rotation[others], torch.eye(3).repeat(int(others.sum()), 1, 1))
    assert not found.pose.shift_A[others].any()


def test_the_maps_are_those_of_the_subset_at_the_poses_found(store, found):
    posed = store.with_pose(found.pose)
    expected = reconstruct(posed, subset=SUBSET, radius=8)  # as far as the box goes
    assert torch.equal(found.result.half1, expected.half1) and torch.equal(found.result.half2, expected.half2)
    assert torch.equal(found.noise, residual_noise(posed, expected, subset=SUBSET))


def test_maps_reach_beyond_the_band_compared(store, true, monkeypatch):
    assert reconstruct_halves(store, true, SUBSET, radius=5).result.map.shape[-1] == 10
    monkeypatch.setattr(pose_rounds, "MARGIN", 1)
    narrow = replace(PLAN, levels=(Level(1, 4.0, 4),))
    maps = torch.zeros(2, 1, 8, 8, 8)
    maps[:, :, 4, 4, 4] = 1
    poses = searched(store, maps, subset=SUBSET[:20], plan=narrow)
    assert poses.result.map.shape[-1] == 2 * (4 + 1)


@pytest.mark.parametrize("half", [0, 1])
def test_poses_of_a_half_set_depend_on_its_own_map_alone(store, both, found, half):
    """With the other half's map turned upside down, no pose of this half changes; those of the other do."""
    maps = both.clone()
    maps[1 - half] = both[1 - half].flip(1, 2)
    other = searched(store, maps)
    own = store.half[SUBSET] == half
    assert torch.equal(other.pose.rotation[SUBSET[own]], found.pose.rotation[SUBSET[own]])
    assert torch.equal(other.pose.shift_A[SUBSET[own]], found.pose.shift_A[SUBSET[own]])
    away = rotation_distance_deg(other.pose.rotation[SUBSET[~own]], found.pose.rotation[SUBSET[~own]])
    assert float(away.median()) > 20


def refined(store, before: PosedHalfSets, maps: torch.Tensor, **changes: object) -> PosedHalfSets:
    options = {"radius": 8, "device": CPU, "advance": lambda count: None}
    return polish_round(store, before, maps, **(options | changes))


@pytest.mark.parametrize("half", [0, 1])
def test_refined_poses_of_a_half_set_depend_on_its_own_map_alone(store, perturbed, half):
    maps = perturbed.references()[:, None]
    one = refined(store, perturbed, maps, radius=6)
    emptied = maps.clone()
    emptied[1 - half] = 0
    other = refined(store, perturbed, emptied, radius=6)
    own = store.half == half
    assert torch.equal(other.pose.rotation[own], one.pose.rotation[own])
    assert torch.equal(other.pose.shift_A[own], one.pose.shift_A[own])
    # an empty map says nothing of a pose: it stays
    torch.testing.assert_close(other.pose.rotation[~own], perturbed.pose.rotation[~own])
    assert float(rotation_distance_deg(one.pose.rotation[~own], perturbed.pose.rotation[~own]).median()) > 0.5


def test_a_map_in_a_smaller_box_or_of_another_scale_finds_the_same(store, both, found):
    other = searched(store, 3 * rebox(both, 12))
    assert float(rotation_distance_deg(other.pose.rotation, found.pose.rotation)[SUBSET].median()) < 0.5


def test_a_component_that_is_empty_changes_nothing(store, both, found):
    other = searched(store, torch.cat([both, 0 * both], dim=1))
    assert float(rotation_distance_deg(other.pose.rotation, found.pose.rotation)[SUBSET].max()) < 0.1
    torch.testing.assert_close(other.pose.shift_A, found.pose.shift_A, atol=0.01, rtol=0)


@pytest.fixture(scope="module")
def moving(blobs_of, simulated, tmp_path_factory) -> Moving:
    """Particles that differ along one component, their store, poses and the true maps for both half sets."""
    varied = blobs_of.of(zdim=1, strength=12.0)
    made = simulated(varied, tmp_path_factory.mktemp("moving") / "store", n=N)
    pose = Pose(torch.from_numpy(made.rotation).float(), torch.from_numpy(PIXEL_A * made.shift_px).float())
    return Moving(made.store.unposed(), pose, varied.maps().repeat(2, 1, 1, 1, 1))


def test_particles_that_move_are_searched_against_a_subspace(moving):
    """Nearer the truth than against the mean alone."""
    one, other = (searched(moving.store, maps) for maps in (moving.maps, moving.maps[:, :1]))
    (turned, away), (rigid, _) = (off(each.pose, moving.true, SUBSET) for each in (one, other))
    assert turned < 3 and away < 0.15
    assert turned < 0.7 * rigid


def test_particles_that_move_are_refined_against_a_subspace(moving):
    everything = torch.arange(N)
    before = reconstruct_halves(moving.store, a_little_off(moving.true), everything, radius=8)
    one, other = (refined(moving.store, before, maps) for maps in (moving.maps, moving.maps[:, :1]))
    (turned, away), (rigid, _) = (off(each.pose, moving.true, everything) for each in (one, other))
    assert turned < 0.5 * off(before.pose, moving.true, everything)[0] and away < 0.15
    assert turned < 0.7 * rigid
    assert torch.equal(one.noise, residual_noise(moving.store.with_pose(one.pose), one.result, subset=everything))


def test_the_seed_turns_the_grid(store, both, found):
    same, other = searched(store, both), searched(store, both, seed=1)
    assert torch.equal(same.pose.rotation, found.pose.rotation)
    assert not torch.equal(other.pose.rotation, found.pose.rotation)
    assert float(rotation_distance_deg(other.pose.rotation, found.pose.rotation)[SUBSET].median()) < 1.5


def test_every_image_is_told_of_once(store, both, perturbed):
    told: list[int] = []
    searched(store, both, advance=told.append)
    assert sum(told) == len(SUBSET)
    told.clear()
    refined(store, perturbed, perturbed.references()[:, None], radius=6, advance=told.append)
    assert sum(told) == N


def test_a_refinement_brings_poses_nearer_the_truth(store, perturbed, true):
    """Of all its images, in the map's own frame, which the perturbed poses hold; and half maps agree better."""
    everything = torch.arange(N)
    once = refined(store, perturbed, perturbed.references()[:, None])
    twice = refined(store, once, once.references()[:, None])
    before, after, last = (off(each.pose, true, everything) for each in (perturbed, once, twice))
    assert before[0] > 3 and before[1] > 0.3
    assert after[0] < 0.6 * before[0] and after[1] < 0.4 * before[1]
    assert last[0] < after[0] * 1.05 and last[1] < after[1] * 1.05
    assert float(once.result.fsc.unmasked.sum()) > float(perturbed.result.fsc.unmasked.sum())
    assert torch.equal(once.subset, everything)


def with_curve(poses: PosedHalfSets, values: list[float]) -> PosedHalfSets:
    report = FscReport(PIXEL_A, BOX, torch.tensor(values))
    return replace(poses, result=replace(poses.result, fsc=report))


def test_references_are_half_maps_times_what_the_other_half_confirms(perturbed):
    """Coefficient by coefficient of numpy's transform; negative correlation is none, beyond the curve is none."""
    curve = [0.2, 1.0, 0.9, 0.5, 0.25, -0.3, 0.1, 0.05]
    halves = with_curve(perturbed, curve).references().double().numpy()
    k = np.fft.fftfreq(BOX, 1 / BOX)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2)
    shell = np.round(radius).astype(int)
    gain = np.where(shell < 8, np.clip(np.array(curve)[np.minimum(shell, 7)], 0, 1), 0.0)
    gain[shell == 0] = 1
    for own, given in zip(halves, (perturbed.result.half1, perturbed.result.half2), strict=True):
        before, after = np.fft.fftn(given.double().numpy()), np.fft.fftn(own)
        np.testing.assert_allclose(after, gain * before, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize(
    ("curve", "shell"),
    [
        ([1.0, 0.9, 0.8, 0.5, 0.142, 0.9, 0.9, 0.9], 3),
        ([1.0, 0.9, 0.8, 0.5, 0.144, 0.2, 0.15, 0.15], 7),
        ([0.0, 0.9, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9], 1),
        ([1.0, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9], 0),
    ],
)
def test_half_maps_agree_to_the_last_shell_before_the_first_that_does_not(perturbed, curve, shell):
    assert with_curve(perturbed, curve).trusted_radius == shell


def test_images_are_whitened_by_the_noise_of_their_shell(store):
    """Beyond the shells that a map reaches the last one counts; the noise of shell 0 is not known."""
    noise = torch.tensor([0.0, 4.0, 2.0, 0.5])
    told: list[int] = []
    batches = pose_rounds.whitened_batches(store, SUBSET, 6, noise=noise, device=CPU, advance=told.append)
    whole = [batch.index for batch in batches]
    assert torch.equal(torch.cat(whole), SUBSET)
    batch = next(iter(pose_rounds.whitened_batches(store, SUBSET, 6, noise=noise, device=CPU, advance=told.append)))
    raw = store.batch(batch.index, store.disk.count(6))
    amplitude = np.sqrt(np.array([4.0, 4.0, 2.0, 0.5, 0.5, 0.5, 0.5]))[store.disk.shell[: raw.image.shape[1]].numpy()]
    np.testing.assert_allclose(batch.image.numpy(), raw.image.numpy() / amplitude, rtol=1e-5)
    np.testing.assert_allclose(batch.ctf.numpy(), raw.ctf.numpy() / amplitude, rtol=1e-5)
