"""Two sets of poses of the same particles in one frame: the turn, hand and displacement between their maps, and errors.

Poses found from images alone are those of a map that lies anywhere, turned anyhow, in either hand. What they are worth
shows only in the frame of the true map (docs/conventions.md, *Alignment*).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import roma
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cryomorph.physics.pose import Pose, rotation_distance_deg

CANDIDATES, JUDGES = 300, 2000  # particles that propose a frame, and those by which proposals are scored
OUTLIER_DEG = 45.0  # an error counts as no more than this: 2.5 % of random rotations are nearer
ROUNDS = 30  # of reweighted least squares
WITHIN_DEG = 10.0


@dataclass(frozen=True)
class FrameChange:
    """What takes a map's coordinates to those of another: `r' = Q r + d`, or `r' = -Q r + d` where the hand is flipped.

    `rotation` is Q (3, 3), `displacement_A` is d (3,), `(x, y, z)` in Angstrom.
    """

    rotation: Float64[Tensor, "3 3"]
    flipped: bool
    displacement_A: Float64[Tensor, " 3"]

    def turn(self, rotation: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 3"]:
        """The same orientations towards the other map: `R Q^-1`, or `diag(-1, -1, 1) R Q^-1` for its mirror image."""
        turned = rotation.double() @ self.rotation.T.to(rotation.device)
        return (_half_turn(turned) @ turned if self.flipped else turned).to(rotation)

    def apply(self, pose: Pose) -> Pose:
        """The poses at which the other map gives the same images; shifts change by `(R' d)_xy`."""
        rotation = self.turn(pose.rotation)
        moved = rotation[:, :2] @ self.displacement_A.to(rotation)
        return Pose(rotation, pose.shift_A + moved.to(pose.shift_A))


@dataclass(frozen=True)
class PoseAlignment:
    """The frame of the true rotations seen from the found ones: Q (3, 3), the hand, and what is left of each error.

    `rotation_deg` (n,) is the angle between each particle's true rotation and its found one, turned by Q.
    """

    rotation: Float64[Tensor, "3 3"]
    flipped: bool
    rotation_deg: Float64[Tensor, " n"]


@dataclass(frozen=True)
class PoseErrors:
    """How far poses lie from the true ones, in the frame of the true map.

    Args:
        rotation_deg: (n,) angle between the rotations.
        frobenius: (n,) `||R_true - R_found||_F^2 = 8 sin^2(angle / 2)`, the unit of cryoDRGN's papers: 0 to 8.
        shift_A: (n,) distance of the shifts, Angstrom.
    """

    rotation_deg: Float64[Tensor, " n"]
    frobenius: Float64[Tensor, " n"]
    shift_A: Float64[Tensor, " n"]

    def summary(self, pixel_A: float) -> dict[str, float]:
        """Medians and means by name, shifts in Angstrom and in pixels of `pixel_A`, and the share within 10 degrees."""
        found: dict[str, float] = {}
        units = {"rotation_deg": self.rotation_deg, "frobenius": self.frobenius, "shift_A": self.shift_A}
        for name, values in (units | {"shift_pixel": self.shift_A / pixel_A}).items():
            found |= {f"{name}_median": float(values.median()), f"{name}_mean": float(values.mean())}
        return found | {"within_10_deg": float((self.rotation_deg < WITHIN_DEG).double().mean())}


def align_poses(found: Float[Tensor, "n 3 3"], true: Float[Tensor, "n 3 3"], *, seed: int = 0) -> PoseAlignment:
    """The turn and hand of the map's frame that bring rotations nearest to the true ones.

    A particle without any error tells the frame by itself, `Q = R_true^T R_found`. Some particles' proposals are scored
    by the errors that they leave, each counted as 45 degrees at most; the best is polished to the chordal L1 mean of
    all proposals near it (Weiszfeld's algorithm: Hartley, Aftab and Trumpf 2011). So most of the particles that agree
    decide, whatever the others do. With views along one axis alone the hand cannot be told: it stays unflipped.

    Args:
        found, true: of the same particles in the same order, at least one.
        seed: chooses which particles propose and judge, where there are many.
    """
    found, true = found.double(), true.double()
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).to(found.device)
    hands = []
    for flipped in (False, True):
        proposal = true.mT @ (_half_turn(found) @ found if flipped else found)
        judges = proposal[order[:JUDGES]]
        # |A - B|_F^2 = 6 - 2 <A, B>
        overlap = proposal[order[:CANDIDATES]].flatten(1) @ judges.flatten(1).T
        angle = torch.rad2deg(torch.acos(((overlap - 1) / 2).clamp(-1, 1)))
        best = angle.clamp(max=OUTLIER_DEG).mean(1).argmin()
        rotation = _median_rotation(proposal, judges[best])
        error_deg = rotation_distance_deg(proposal, rotation.expand_as(proposal))
        hands.append(PoseAlignment(rotation.cpu(), flipped, error_deg))
    return min(hands, key=lambda hand: float(hand.rotation_deg.clamp(max=OUTLIER_DEG).mean()))


def align_shifts(found: Pose, true: Pose) -> Float64[Tensor, " 3"]:
    """The displacement d of the map, Angstrom, by which shifts differ: `shift_true = shift_found + (R d)_xy`.

    The sum of distances is minimised (reweighted least squares), over particles whose rotations are near the true ones
    as far as there are any; what no view shows of d stays 0.

    Args:
        found: poses whose rotations are in the frame of the true ones already.
    """
    rotation = found.rotation.double()[:, :2]
    gap = (true.shift_A - found.shift_A).double()
    near = rotation_distance_deg(found.rotation.double(), true.rotation.double()) < OUTLIER_DEG
    trust = torch.where(near, 1.0, 1e-6).to(gap)
    weight, displacement = trust, gap.new_zeros(3)
    for _ in range(ROUNDS):
        weighted = rotation.mT * weight[:, None, None]
        normal, right = (weighted @ rotation).sum(0), (weighted @ gap[..., None]).sum(0)
        displacement = (torch.linalg.pinv(normal, rtol=1e-9, hermitian=True) @ right)[:, 0]
        left = torch.linalg.vector_norm(gap - rotation @ displacement, dim=1)
        weight = trust / left.clamp(min=0.1 * float(left.median()) + 1e-9)
    return displacement


@dataclass(frozen=True)
class ComparedPoses:
    """Found poses in the frame of the true ones (`pose`), what took them there, and their errors."""

    pose: Pose
    frame: FrameChange
    errors: PoseErrors


def compare_poses(found: Pose, true: Pose, *, seed: int = 0) -> ComparedPoses:
    """Bring poses into the frame of the true ones, and say how far each is off.

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
    """What a mirror image `V(-r)` asks of a pose: half a turn of the image's axes about the beam."""
    return torch.diag(like.new_tensor([-1.0, -1.0, 1.0]))


def _median_rotation(proposal: Float64[Tensor, "n 3 3"], start: Float64[Tensor, "3 3"]) -> Float64[Tensor, "3 3"]:
    """The rotation whose summed chordal distance from those near it is least."""
    rotation = start
    for _ in range(ROUNDS):
        distance = torch.linalg.matrix_norm(proposal - rotation)
        near = distance < math.sqrt(8) * math.sin(math.radians(OUTLIER_DEG) / 2)
        weight = near / distance.clamp(min=1e-4)
        rotation = roma.special_procrustes((weight[:, None, None] * proposal).sum(0))
    return rotation
