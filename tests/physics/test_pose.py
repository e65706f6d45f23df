"""Rotations against scipy and the referee; shifts against `np.roll`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.pose import (
    Pose,
    euler_from_rotation,
    random_rotations,
    rotation_distance_deg,
    rotation_from_euler,
    rotation_from_rotvec,
    rotvec_from_rotation,
    shift_phase,
)

ANGLE = st.floats(-360, 360, allow_subnormal=False)
TILT = st.one_of(st.floats(0, 180, allow_subnormal=False), st.sampled_from([0.0, 1e-7, 1e-4, 179.9999, 180.0]))


def angles(*rows: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@settings(deadline=None, derandomize=True)
@given(rot=ANGLE, tilt=ANGLE, psi=ANGLE)
def test_euler_matrix_is_relion_s(rot, tilt, psi):
    """RELION's angles turn the axes: the inverse of scipy's active, intrinsic ZYZ rotation."""
    expected = Rotation.from_euler("ZYZ", [rot, tilt, psi], degrees=True).as_matrix().T
    np.testing.assert_allclose(rotation_from_euler(angles((rot, tilt, psi)))[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("euler_deg", "volume_axis", "image_axis"),
    [
        ((90.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),  # rot 90: the volume's y is seen along the image's x
        ((0.0, 90.0, 0.0), (0.0, 0.0, -1.0), (1.0, 0.0, 0.0)),  # tilt 90: its -z along the image's x
        ((0.0, 90.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),  # and its x along the beam
        ((0.0, 0.0, 90.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),  # psi 90: its x along the image's -y
    ],
)
def test_quarter_turns_by_hand(euler_deg, volume_axis, image_axis):
    turned = rotation_from_euler(angles(euler_deg))[0] @ torch.tensor(volume_axis, dtype=torch.float64)
    np.testing.assert_allclose(turned.numpy(), image_axis, atol=1e-12)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(rot=ANGLE, tilt=TILT, psi=ANGLE)
@example(rot=30.0, tilt=0.0, psi=50.0)
@example(rot=30.0, tilt=180.0, psi=50.0)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 3e-5)])
def test_euler_angles_survive_the_matrix_even_at_the_poles(dtype, tolerance, rot, tilt, psi):
    """Near tilt 0 and 180 only rot +- psi is determined: the matrix must come back, whatever the angles."""
    rotation = rotation_from_euler(angles((rot, tilt, psi))).to(dtype)
    again = rotation_from_euler(euler_from_rotation(rotation))
    torch.testing.assert_close(again, rotation, atol=tolerance, rtol=0)


@pytest.mark.parametrize("tilt", [0.0, 180.0])
def test_euler_angles_survive_rounding_at_the_poles(tilt):
    """A product of float32 rotations ends a rounding error off the pole, where rot and psi alone mean nothing."""
    n = 500
    rows = [(float(angle), tilt, 2.0 * float(angle)) for angle in torch.linspace(-180, 180, n)]
    turn = random_rotations(n, torch.Generator().manual_seed(0))
    rotation = turn.mT @ (turn @ rotation_from_euler(angles(*rows)).float())
    again = rotation_from_euler(euler_from_rotation(rotation))
    torch.testing.assert_close(again, rotation, atol=1e-5, rtol=0)


@settings(deadline=None, derandomize=True)
@given(rot=st.floats(-179, 179), tilt=st.floats(1, 179), psi=st.floats(-179, 179))
def test_euler_angles_themselves_come_back_away_from_the_poles(rot, tilt, psi):
    given_angles = angles((rot, tilt, psi))
    torch.testing.assert_close(euler_from_rotation(rotation_from_euler(given_angles)), given_angles, atol=1e-7, rtol=0)


@settings(deadline=None, derandomize=True)
@given(rotvec=st.tuples(*[st.floats(-1.8, 1.8)] * 3))
def test_rotation_vectors_are_scipy_s(rotvec):
    ours = rotation_from_rotvec(angles(rotvec))
    np.testing.assert_allclose(ours[0].numpy(), Rotation.from_rotvec(rotvec).as_matrix(), atol=1e-12)
    again = rotation_from_rotvec(rotvec_from_rotation(ours))
    torch.testing.assert_close(again, ours, atol=1e-7, rtol=0)


def test_random_rotations_are_uniform_rotations():
    """Proper rotations whose view directions and in-plane turns average to zero; the same seed gives the same."""
    rotation = random_rotations(20000, torch.Generator().manual_seed(3))
    identity = torch.eye(3).expand_as(rotation)
    torch.testing.assert_close(rotation @ rotation.mT, identity, atol=2e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(20000), atol=2e-6, rtol=0)
    assert float(rotation.mean(0).abs().max()) < 0.02  # 5 sigma of 1/sqrt(3 n)
    second_moment = torch.einsum("nij,nkl->ijkl", rotation, rotation) / 20000
    uniform = torch.einsum("ik,jl->ijkl", torch.eye(3), torch.eye(3)) / 3
    torch.testing.assert_close(second_moment, uniform, atol=0.015, rtol=0)
    assert torch.equal(rotation, random_rotations(20000, torch.Generator().manual_seed(3)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 0.05)])
def test_distance_is_the_angle_between(dtype, tolerance):
    base = Rotation.random(50, random_state=0)
    degrees = torch.linspace(0, 180, 50, dtype=torch.float64)
    turned = Rotation.from_rotvec(np.deg2rad(degrees.numpy())[:, None] * np.array([0.6, 0.0, 0.8])) * base
    a, b = (torch.from_numpy(rotation.as_matrix()).to(dtype) for rotation in (turned, base))
    torch.testing.assert_close(rotation_distance_deg(a, b).double(), degrees, atol=tolerance, rtol=0)


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, 1), (-3, 5), (7, -2)])
def test_a_shift_by_whole_pixels_is_a_roll(shift):
    """`shift_phase` moves the content by `(x, y)`: along the array's last axis, then its first."""
    disk = FourierDisk(16)
    x = disk.to_images(disk.from_images(torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1)).double()))
    phase = shift_phase(disk.frequency.double() / 16, torch.tensor([shift], dtype=torch.float64))
    moved = disk.to_images(disk.from_images(x) * phase)
    expected = np.roll(x.numpy(), (shift[1], shift[0]), axis=(1, 2))
    np.testing.assert_allclose(moved.numpy(), expected, atol=1e-12)


def test_the_shift_centres_the_particle():
    """An image whose content lies at `-shift` is centred by the phases of `+shift`, to a fraction of a pixel."""
    disk, shift = FourierDisk(24), torch.tensor([[2.25, -3.5]], dtype=torch.float64)

    def blob(x0: float, y0: float) -> torch.Tensor:
        r = torch.arange(24, dtype=torch.float64) - 12
        return torch.exp(-((r[None, :] - x0) ** 2 + (r[:, None] - y0) ** 2) / (2 * 1.8**2))[None]

    phase = shift_phase(disk.frequency.double() / 24, shift)
    centred = disk.from_images(blob(-2.25, 3.5)) * phase
    torch.testing.assert_close(centred, disk.from_images(blob(0, 0)), atol=1e-3, rtol=0)


def test_poses_can_be_chosen_and_counted():
    pose = Pose(torch.eye(3).repeat(4, 1, 1), torch.arange(8.0).reshape(4, 2))
    assert len(pose) == 4
    assert pose[1:3].shift_A.tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert len(pose[torch.tensor([3])]) == 1


@pytest.mark.accept
def test_agrees_with_the_referee(shared: Path):
    spec = importlib.util.spec_from_file_location("referee_simulate", shared / "referee" / "simulate.py")
    assert spec is not None
    assert spec.loader is not None
    referee = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(referee)
    euler_deg = np.random.default_rng(0).uniform(-180, 180, (20, 3))
    expected = np.stack([referee.relion_matrix(*row) for row in euler_deg])
    np.testing.assert_allclose(rotation_from_euler(torch.from_numpy(euler_deg)).numpy(), expected, atol=1e-12)
