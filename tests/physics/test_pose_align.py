"""Frames of poses against known turns, hands and displacements, and against images of a phantom."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomorph.physics.pose import Pose, random_rotations, rotation_distance_deg, rotation_from_rotvec
from cryomorph.physics.pose_align import FrameChange, align_poses, align_shifts, compare_poses
from cryomorph.simulation.images import Grid, Padded, clean_images
from cryomorph.simulation.phantoms import Cloud

HALF_TURN = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotations(n: int, seed: int) -> torch.Tensor:
    return random_rotations(n, generator(seed)).double()


def spread(rotation: torch.Tensor, degrees: float, seed: int) -> torch.Tensor:
    """Each rotation off by a random turn whose angles about the three axes have this standard deviation."""
    noise = torch.randn(len(rotation), 3, generator=generator(seed), dtype=torch.float64)
    return rotation_from_rotvec(torch.deg2rad(degrees * noise)) @ rotation


def images(position: np.ndarray, pose: Pose) -> torch.Tensor:
    """Exact images of a few unlike Gaussians at `position` (m, 3), `(x, y, z)` in Angstrom."""
    cloud = Cloud(position, np.linspace(1, 2, len(position)))
    label = torch.zeros(len(pose), dtype=torch.int64)
    return clean_images(Padded.of([cloud]), label, Grid(32, 2.0, 3.0), pose=pose, ctf=None)


@pytest.mark.parametrize("flipped", [False, True])
def test_a_moved_map_gives_the_same_images_at_the_moved_poses(flipped):
    """`r' = Q r + d` for every atom, `r' = -Q r + d` in the other hand; the images themselves are the oracle."""
    position = np.random.default_rng(0).normal(0, 8, (9, 3))
    change = FrameChange(rotations(1, 1)[0], flipped, torch.tensor([3.0, -5.0, 2.0], dtype=torch.float64))
    moved = (-1 if flipped else 1) * position @ change.rotation.numpy().T + change.displacement_A.numpy()
    pose = Pose(rotations(7, 2), torch.randn(7, 2, generator=generator(3), dtype=torch.float64))
    expected = images(position, pose)
    assert torch.allclose(images(moved, change.apply(pose)), expected, atol=1e-5 * float(expected.max()))
    wrong = FrameChange(change.rotation, not flipped, change.displacement_A).apply(pose)
    assert float((images(moved, wrong) - expected).abs().max()) > 0.2 * float(expected.max())


def test_the_mirror_image_takes_half_a_turn_about_the_beam():
    """`V(-r)` at `diag(-1, -1, 1) R` gives the images of `V(r)` at `R`; half a turn about x or y, or none, does not."""
    position = np.random.default_rng(4).normal(0, 8, (9, 3))
    rotation, none = rotations(5, 5), torch.zeros(5, 2, dtype=torch.float64)
    expected = images(position, Pose(rotation, none))
    turns = {"z": [-1.0, -1.0, 1.0], "x": [1.0, -1.0, -1.0], "y": [-1.0, 1.0, -1.0], "none": [1.0, 1.0, 1.0]}
    error = {
        axis: float(
            (images(-position, Pose(torch.diag(torch.tensor(turn).double()) @ rotation, none)) - expected).abs().max()
        )
        for axis, turn in turns.items()
    }
    assert error.pop("z") < 1e-5 * float(expected.max())
    assert min(error.values()) > 0.2 * float(expected.max())


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("outliers", "degrees"), [(0.0, 0.0), (0.0, 10.0), (0.4, 3.0)])
def test_turn_and_hand_are_found_whatever_two_fifths_of_the_poses_say(flipped, outliers, degrees):
    n, turn = 2000, rotations(1, 6)[0]
    true = rotations(n, 7)
    found = spread((HALF_TURN @ true if flipped else true) @ turn, degrees, 8)  # R Q^-1 undone
    lost = torch.arange(n) < outliers * n
    found[lost] = rotations(int(lost.sum()), 9)
    aligned = align_poses(found, true)
    assert aligned.flipped == flipped
    assert float(rotation_distance_deg(aligned.rotation[None], turn[None])) < 1e-4 + 0.1 * degrees
    expected = float(aligned.rotation_deg[~lost].median())
    assert expected == pytest.approx(1.54 * degrees, rel=0.05, abs=1e-4)  # median of a chi of three degrees of freedom
    if outliers:
        assert float((aligned.rotation_deg[lost] > 20).double().mean()) > 0.95


def test_a_displaced_map_is_told_from_wrong_shifts():
    n, displacement = 1500, torch.tensor([4.0, -7.0, 2.5], dtype=torch.float64)
    true = Pose(rotations(n, 10), 5 * torch.randn(n, 2, generator=generator(11), dtype=torch.float64))
    found = Pose(true.rotation, true.shift_A - true.rotation[:, :2] @ displacement)
    assert torch.allclose(align_shifts(found, true), displacement, atol=1e-6)
    lost = torch.arange(n) < 600
    found.shift_A[lost] += 30 + 10 * torch.randn(600, 2, generator=generator(12), dtype=torch.float64)
    found.shift_A[~lost] += 0.5 * torch.randn(900, 2, generator=generator(13), dtype=torch.float64)
    assert float((align_shifts(found, true) - displacement).norm()) < 0.3


def test_what_no_view_shows_of_a_displacement_stays_zero():
    true = Pose(torch.eye(3).expand(20, 3, 3), torch.ones(20, 2))
    found = Pose(true.rotation, torch.zeros(20, 2))
    assert torch.allclose(align_shifts(found, true), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64), atol=1e-6)


def test_errors_of_poses_that_are_off_by_known_angles_and_lengths():
    """Half of the particles exact, a quarter off by 20 degrees, a quarter by 3 A: 8 sin^2 (10 degrees) = 0.2412."""
    n, change = 400, FrameChange(rotations(1, 14)[0], True, torch.tensor([2.0, 1.0, -6.0], dtype=torch.float64))
    found = Pose(rotations(n, 15), torch.randn(n, 2, generator=generator(16), dtype=torch.float64))
    exact = change.apply(found)
    axis = torch.nn.functional.normalize(torch.randn(100, 3, generator=generator(17), dtype=torch.float64), dim=1)
    rotation, shift_A = exact.rotation.clone(), exact.shift_A.clone()
    rotation[:100] = rotation_from_rotvec(torch.deg2rad(20 * axis)) @ rotation[:100]
    shift_A[100:200, 0] += 3.0
    compared = compare_poses(found, Pose(rotation, shift_A))
    errors = compared.errors
    assert compared.frame.flipped and torch.allclose(compared.frame.rotation, change.rotation, atol=1e-4)
    assert torch.allclose(compared.frame.displacement_A, change.displacement_A, atol=0.05)
    assert torch.allclose(errors.rotation_deg, torch.where(torch.arange(n) < 100, 20.0, 0.0).double(), atol=0.02)
    assert torch.allclose(errors.frobenius[:100], torch.tensor(0.2412, dtype=torch.float64), atol=1e-3)
    frobenius = (compared.pose.rotation - rotation).square().sum((1, 2))
    assert torch.allclose(errors.frobenius, frobenius, atol=1e-9)
    assert torch.allclose(errors.shift_A[100:200], torch.tensor(3.0, dtype=torch.float64), atol=0.1)
    summary = errors.summary(pixel_A=1.5)
    assert summary["within_10_deg"] == 0.75 and summary["rotation_deg_median"] < 0.02
    assert summary["rotation_deg_mean"] == pytest.approx(5, abs=0.02)
    assert summary["shift_pixel_mean"] == pytest.approx(summary["shift_A_mean"] / 1.5)


def test_one_particle_and_single_precision_will_do():
    true, turn = rotations(1, 18).float(), rotations(1, 19)[0].float()
    aligned = align_poses(true @ turn, true)
    assert not aligned.flipped and float(aligned.rotation_deg) < 1e-3
