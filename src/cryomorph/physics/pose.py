"""Poses: rotations from volume to image coordinates, and in-plane shifts that centre the particle.

roma is imported where it is used: it loads torch's compiler, over a second that many commands need not spend.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor


@dataclass(frozen=True)
class Pose:
    """`rotation` (n, 3, 3), `p = R r`; `shift_A` (n, 2), `(x, y)` in Angstrom, which centres the particle."""

    rotation: Float[Tensor, "n 3 3"]
    shift_A: Float[Tensor, "n 2"]

    def __len__(self) -> int:
        return len(self.rotation)

    def __getitem__(self, index: Tensor | slice) -> Pose:
        return Pose(self.rotation[index], self.shift_A[index])


def rotation_from_euler(angles_deg: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """RELION's matrix of `(rot, tilt, psi)` in degrees: `Rz(psi) Ry(tilt) Rz(rot)`, each a rotation of the axes.

    Rotating the axes is the inverse of rotating the molecule, hence the transpose of the active intrinsic ZYZ rotation.
    """
    import roma

    return roma.euler_to_rotmat("ZYZ", angles_deg, degrees=True).mT.contiguous()


def euler_from_rotation(rotation: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3"]:
    """`(rot, tilt, psi)` in degrees of rotation matrices; at tilt 0 or 180, `rot` is 0."""
    sine = torch.linalg.vector_norm(rotation[:, 2, :2], dim=1)
    tilt = torch.atan2(sine, rotation[:, 2, 2])
    rot = torch.where(
        sine > 4 * torch.finfo(rotation.dtype).eps,
        torch.atan2(rotation[:, 2, 1], rotation[:, 2, 0]),
        torch.zeros_like(tilt),
    )
    # psi after rot is removed: well defined at the poles too, where rot is rounding noise
    c, s = torch.cos(rot), torch.sin(rot)
    psi = torch.atan2(rotation[:, 0, 1] * c - rotation[:, 0, 0] * s, rotation[:, 1, 1] * c - rotation[:, 1, 0] * s)
    return torch.rad2deg(torch.stack([rot, tilt, psi], dim=1))


def rotation_from_rotvec(rotvec: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of rotation vectors (radians). cryoSPARC's `pose` gives the *transpose* of ours."""
    import roma

    return roma.rotvec_to_rotmat(rotvec)


def rotvec_from_rotation(rotation: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3"]:
    """Rotation vectors (radians) of rotation matrices."""
    import roma

    return roma.rotmat_to_rotvec(rotation)


def neighbouring_rotations(rotation: Float[Tensor, "b 3 3"], angle_deg: float | int) -> Float[Tensor, "b 9 3 3"]:
    """Each rotation and eight others `exp(w) R` at a given angle from it: `w` points to the corners of a cube."""
    corner = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3).to(rotation) / 3**0.5
    steps = torch.cat([corner.new_zeros(1, 3), corner]) * math.radians(angle_deg)
    with torch.autocast(rotation.device.type, enabled=False):  # in half precision the product would be off by degrees
        return rotation_from_rotvec(steps) @ rotation[:, None]


def cross_matrix(axis: Float[Tensor, 3]) -> Float[Tensor, "3 3"]:
    """The matrix of `axis x .`: the derivative of a rotation about the axis at angle 0."""
    x, y, z = axis
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)


def random_rotations(n: int, generator: torch.Generator) -> Float[Tensor, "n 3 3"]:
    """Uniform rotations on SO(3): normalised Gaussian quaternions."""
    quaternion = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    import roma

    return roma.unitquat_to_rotmat(torch.nn.functional.normalize(quaternion, dim=1)).float()


def rotation_distance_deg(a: Float[Tensor, "n 3 3"], b: Float[Tensor, "n 3 3"]) -> Float[Tensor, " n"]:
    """Geodesic angle between rotations, in degrees."""
    import roma

    return torch.rad2deg(roma.rotmat_geodesic_distance(a, b))


def shift_phase(frequency: Float[Tensor, "m 2"], shift_pixel: Float[Tensor, "n 2"]) -> Complex[Tensor, "n m"]:
    """Phases that shift an image by `shift_pixel` `(x, y)`: `exp(-2 pi i k . shift)`, `k` in cycles per pixel.

    Multiplying an image by the phases of its `shift_A / pixel_A` centres the particle; multiplying a centred slice by
    the phases of `-shift_A / pixel_A` moves it to where the image shows it.
    """
    # not a matrix product, whose rounding would depend on the number of images
    angle = (-2 * torch.pi) * (shift_pixel[:, :1] * frequency[:, 0] + shift_pixel[:, 1:] * frequency[:, 1])
    return torch.complex(torch.cos(angle), torch.sin(angle))
