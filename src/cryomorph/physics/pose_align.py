"""Alignment of two sets of poses of the same particles: rotation, hand and displacement between their maps, and errors.

Poses from ab initio reconstruction belong to a map in an arbitrary position, orientation and hand, so that their errors
are meaningful only in the frame of the true map (docs/conventions.md, *Alignment*).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cryomorph.physics.pose import Pose, rotation_distance_deg

PROPOSING, SCORING = 300, 2000  # particles that propose a frame, and those by which proposals are scored
OUTLIER_DEG = 45.0  # errors are capped at this angle; 2.5 % of random rotations have smaller ones
ITERATIONS = 30  # of reweighted least squares
WITHIN_DEG = 10.0


@dataclass(frozen=True)
class FrameChange:
    """From a map's coordinates to those of another: `r' = Q r + d`, or `r' = -Q r + d` if the hand is flipped.

    `rotation` is Q (3, 3), `displacement_A` is d (3,), `(x, y, z)` in Angstrom.
    """

    rotation: Float64[Tensor, "3 3"]
    flipped: bool
    displacement_A: Float64[Tensor, " 3"]

    def rotate(self, rotation: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 3"]:
        """The rotations relative to the other map: `R Q^-1`, or `diag(-1, -1, 1) R Q^-1` for its mirror image."""
        turned = rotation.double() @ self.rotation.T.to(rotation.device)
        return (_half_turn(turned) @ turned if self.flipped else turned).to(rotation)

    def apply(self, pose: Pose) -> Pose:
        """The poses that give the same images with the other map; shifts change by `(R' d)_xy`."""
        rotation = self.rotate(pose.rotation)
        moved = rotation[:, :2] @ self.displacement_A.to(rotation)
        return Pose(rotation, pose.shift_A + moved.to(pose.shift_A))


@dataclass(frozen=True)
class PoseAlignment:
    """Rotation Q (3, 3) and hand from the frame of estimated rotations to the true ones, and the remaining errors.

    `rotation_deg` (n,) is the angle between each particle's true rotation and its estimated one in the true frame.
    """

    rotation: Float64[Tensor, "3 3"]
    flipped: bool
    rotation_deg: Float64[Tensor, " n"]


@dataclass(frozen=True)
class PoseErrors:
    """Errors of poses in the frame of the true map.

    Args:
        rotation_deg: (n,) angle between the rotations.
        frobenius: (n,) `||R_true - R_found||_F^2 = 8 sin^2(angle / 2)`, as in cryoDRGN's papers: 0 to 8.
        shift_A: (n,) distance between the shifts in Angstrom.
    """

    rotation_deg: Float64[Tensor, " n"]
    frobenius: Float64[Tensor, " n"]
    shift_A: Float64[Tensor, " n"]

    def summary(self, pixel_A: float) -> dict[str, float]:
        """Medians and means by name, shifts in Angstrom and in pixels, and the fraction within 10 degrees."""
        found: dict[str, float] = {}
        units = {"rotation_deg": self.rotation_deg, "frobenius": self.frobenius, "shift_A": self.shift_A}
        for name, values in (units | {"shift_pixel": self.shift_A / pixel_A}).items():
            found |= {f"{name}_median": float(values.median()), f"{name}_mean": float(values.mean())}
        return found | {"within_10_deg": float((self.rotation_deg < WITHIN_DEG).double().mean())}


def align_poses(found: Float[Tensor, "n 3 3"], true: Float[Tensor, "n 3 3"], *, seed: int = 0) -> PoseAlignment:
    """Rotation and hand that bring estimated rotations closest to the true ones.

    Every particle without error would give the frame by itself, `Q = R_true^T R_found`. The proposals of some particles
    are scored by the remaining errors, each capped at 45 degrees; the best is refined to the chordal L1 mean of all
    proposals near it (Weiszfeld's algorithm: Hartley, Aftab and Trumpf 2011), so that outliers have no influence. If
    all views are along one axis, the hand is undetermined and is not flipped.

    Args:
        found, true: of the same particles in the same order, at least one.
        seed: chooses the particles that propose and score, if there are many.
    """
    found, true = found.double(), true.double()
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).to(found.device)
    hands = []
    for flipped in (False, True):
        proposal = true.mT @ (_half_turn(found) @ found if flipped else found)
        scoring = proposal[order[:SCORING]]
        # |A - B|_F^2 = 6 - 2 <A, B>
        overlap = proposal[order[:PROPOSING]].flatten(1) @ scoring.flatten(1).T
        angle = torch.rad2deg(torch.acos(((overlap - 1) / 2).clamp(-1, 1)))
        best = angle.clamp(max=OUTLIER_DEG).mean(1).argmin()
        rotation = _median_rotation(proposal, scoring[best])
        error_deg = rotation_distance_deg(proposal, rotation.expand_as(proposal))
        hands.append(PoseAlignment(rotation.cpu(), flipped, error_deg))
    return min(hands, key=lambda hand: float(hand.rotation_deg.clamp(max=OUTLIER_DEG).mean()))


def align_shifts(found: Pose, true: Pose) -> Float64[Tensor, " 3"]:
    """Displacement d of the map in Angstrom by which the shifts differ: `shift_true = shift_found + (R d)_xy`.

    It minimises the sum of distances (by reweighted least squares), mainly over particles with accurate rotations;
    components of d that no view shows are 0.

    Args:
        found: poses with rotations in the frame of the true ones.
    """
    rotation = found.rotation.double()[:, :2]
    gap = (true.shift_A - found.shift_A).double()
    near = rotation_distance_deg(found.rotation.double(), true.rotation.double()) < OUTLIER_DEG
    trust = torch.where(near, 1.0, 1e-6).to(gap)
    weight, displacement = trust, gap.new_zeros(3)
    for _ in range(ITERATIONS):
        weighted = rotation.mT * weight[:, None, None]
        normal, right = (weighted @ rotation).sum(0), (weighted @ gap[..., None]).sum(0)
        displacement = (torch.linalg.pinv(normal, rtol=1e-9, hermitian=True) @ right)[:, 0]
        left = torch.linalg.vector_norm(gap - rotation @ displacement, dim=1)
        weight = trust / left.clamp(min=0.1 * float(left.median()) + 1e-9)
    return displacement


@dataclass(frozen=True)
class ComparedPoses:
    """Estimated poses in the frame of the true ones (`pose`), the change of frame, and their errors."""

    pose: Pose
    frame: FrameChange
    errors: PoseErrors


def compare_poses(found: Pose, true: Pose, *, seed: int = 0) -> ComparedPoses:
    """Bring poses into the frame of the true ones and compute their errors.

    Args:
        found, true: of the same particles in the same order, at least one.
    """
    turned = align_poses(found.rotation, true.rotation, seed=seed)
    frame = FrameChange(turned.rotation, turned.flipped, torch.zeros(3, dtype=torch.float64))
    frame = FrameChange(turned.rotation, turned.flipped, align_shifts(frame.apply(found), true).cpu())
    pose = frame.apply(found)
    frobenius = 8 * torch.sin(torch.deg2rad(turned.rotation_deg) / 2) ** 2
    shift_A = torch.linalg.vector_norm((pose.shift_A - true.shift_A).double(), dim=1)
    return ComparedPoses(pose, frame, PoseErrors(turned.rotation_deg, frobenius, shift_A))


def _half_turn(like: Tensor) -> Float64[Tensor, "3 3"]:
    """For a mirror image `V(-r)`: a rotation of the image's axes by 180 degrees about the beam."""
    return torch.diag(like.new_tensor([-1.0, -1.0, 1.0]))


def _median_rotation(proposal: Float64[Tensor, "n 3 3"], start: Float64[Tensor, "3 3"]) -> Float64[Tensor, "3 3"]:
    """The rotation with the smallest sum of chordal distances to those near it."""
    rotation = start
    import roma  # see physics.pose

    for _ in range(ITERATIONS):
        distance = torch.linalg.matrix_norm(proposal - rotation)
        near = distance < math.sqrt(8) * math.sin(math.radians(OUTLIER_DEG) / 2)
        weight = near / distance.clamp(min=1e-4)
        rotation = roma.special_procrustes((weight[:, None, None] * proposal).sum(0))
    return rotation
