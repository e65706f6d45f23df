"""The paths of particles along motions, and the Gaussians on them, in the coordinates of files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from scipy.linalg import null_space
from torch import Tensor

from cryomorph.analysis.latent import check_latent
from cryomorph.analysis.motions.modes import Motion, MotionSpace, rms_A
from cryomorph.analysis.nearest import nearest_to
from cryomorph.analysis.paths import LatentPath, occupancy
from cryomorph.representations.gaussians import Gaussians
from cryomorph.volumes.backproject import mirror

PERCENTILES = (5.0, 95.0)
SLAB = (30, 1000)  # fewest and most particles of about one coordinate: a twentieth of all between
FEWEST = 12  # particles that make a point of a path
SETTLE = 6  # iterations of the mean shift


@dataclass(frozen=True)
class FileFrame:
    """How positions in pixels from the origin become the coordinates of files.

    Maps are written without an origin in their header, so that programs put their first voxel at 0 0 0; ours lies on
    voxel `box // 2` (docs/conventions.md).
    """

    box: int
    pixel_A: float
    flip_hand: bool

    def to_file(self, position: Float[np.ndarray, "*k 3"]) -> Float64[np.ndarray, "*k 3"]:
        """Angstrom as in a file, from pixels."""
        return (position * self._hand + self.box // 2) * self.pixel_A

    def from_file(self, position: Float[np.ndarray, "*k 3"]) -> Float64[np.ndarray, "*k 3"]:
        """Pixels, from Angstrom as in a file."""
        return (position / self.pixel_A - self.box // 2) * self._hand

    @property
    def _hand(self) -> Float64[np.ndarray, " 3"]:
        return np.array([1.0, 1.0, -1.0 if self.flip_hand else 1.0])

    def map(self, volume: Float32[Tensor, "z y x"]) -> Float32[Tensor, "z y x"]:
        """A map of the hand that is asked for, or back."""
        return mirror(volume) if self.flip_hand else volume


@dataclass(frozen=True)
class MotionPath:
    """The Gaussians along a motion: latent `points`, and at each positions and widths in Angstrom, as in files."""

    motion: Motion
    points: Float64[np.ndarray, "k q"]
    position: Float64[np.ndarray, "k n 3"]
    width_A: Float64[np.ndarray, "k n"]
    amplitude: Float64[np.ndarray, "k n"]

    @property
    def displacement(self) -> Float64[np.ndarray, "n 3"]:
        """From the first point to the last, in Angstrom."""
        return np.asarray(self.position[-1] - self.position[0])


def motion_path(
    model: Gaussians,
    z: Float64[np.ndarray, "n q"],
    space: MotionSpace,
    *,
    motion: Motion,
    points: int,
    frame: FileFrame,
) -> MotionPath:
    """The Gaussians along a motion."""
    if motion.step is None:
        path = path_along(z, space.scores, motion.direction, points=points)
    else:
        path = straight_line(space.scores, motion, model.origin.double().numpy(), points=points)
    with torch.no_grad():
        found = model.at(torch.as_tensor(path, dtype=torch.float32))
    position, width, amplitude = (part.double().numpy() for part in found)
    width = np.broadcast_to(width, amplitude.shape) * frame.pixel_A
    return MotionPath(motion, path, frame.to_file(position), width, amplitude)


def path_along(
    z: Float[np.ndarray, "n q"],
    scores: Float64[np.ndarray, "n m"],
    direction: Float64[np.ndarray, " m"],
    *,
    points: int,
) -> Float64[np.ndarray, "points q"]:
    """Latent points along a motion, at quantiles of the particles' coordinate from the 5th to the 95th percentile.

    Latent spaces are curved, so a point is made of particles: of those with about that coordinate (a twentieth of all)
    a quarter, whose other coordinates are most alike (a mean shift). In the middle of the path it starts near the
    medians of all; from there either half of the path goes on with particles near those before, so that it does not
    leap where two branches have the same coordinate. A point is the kernel-weighted mean of its particles' latent
    points, by a local linear fit, so that the ends are not drawn inwards.
    """
    z64 = check_latent(z)
    along = scores @ direction
    others = scores @ null_space(direction[None])
    order = np.argsort(along, kind="stable")
    ranked = along[order]
    size = int(min(np.clip(len(z64) // 20, *SLAB), len(z64)))
    places = np.percentile(along, np.linspace(*PERCENTILES, points))
    found = np.empty((points, z64.shape[1]))
    kept = max(size // 4, min(size, FEWEST))
    middle = points // 2
    for walk in (range(middle, points), range(middle, -1, -1)):
        before = np.median(others, axis=0)
        for number in walk:
            start = int(np.clip(np.searchsorted(ranked, places[number]) - size // 2, 0, len(z64) - size))
            slab = order[start : start + size]
            before = others[slab[nearest_to(before, others[slab], 1)[0]]]
            for _ in range(SETTLE):
                near = slab[nearest_to(before, others[slab], kept)]
                before = np.median(others[near], axis=0)
            found[number] = _local_mean(z64[near], along[near] - places[number])
    return found


def _local_mean(values: Float64[np.ndarray, "k q"], far: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " q"]:
    """The value at 0 of a line through values at `far`, those that are nearer with more weight."""
    weight = np.exp(-np.square(far / max(np.abs(far).max(), 1e-12)))[:, None]
    design = np.stack([np.ones(len(far)), far], axis=1)
    return np.asarray(np.linalg.lstsq(design * weight, values * weight, rcond=1e-6)[0][0])


def straight_line(
    scores: Float64[np.ndarray, "n m"], motion: Motion, origin: Float[np.ndarray, " q"], *, points: int
) -> Float64[np.ndarray, "points q"]:
    """Latent points on the line through an origin along a straight motion, evenly from the 5th to the 95th percentile.

    Raises:
        ValueError: the motion is not straight.
    """
    if motion.step is None:
        raise ValueError(f"{motion.name} follows particles, not a straight line")
    first, last = np.percentile(scores @ motion.direction, PERCENTILES)
    return origin + (np.linspace(first, last, points) - motion.start)[:, None] * motion.step


def motion_facts(
    path: MotionPath,
    z: Float64[np.ndarray, "n q"],
    *,
    space: MotionSpace,
    regions: Float64[np.ndarray, "r count"] | None,
    model: Gaussians,
) -> dict[str, Any]:
    """What motions.json says of a motion."""
    moved, weight = path.displacement, model.neutral.amplitude[0].detach().double().numpy()
    lengths = np.linalg.norm(moved, axis=1)
    arc = np.concatenate([[0.0], np.linalg.norm(np.diff(path.points, axis=0), axis=1).cumsum()])
    around = occupancy(z, LatentPath(path.points, arc))
    name = path.motion.name
    facts = {"name": name, **path.motion.facts, "rms_A": rms_A(moved, weight), "largest_A": float(lengths.max())}
    own = next((i for i, motion in enumerate(space.motions) if motion.name == name), None)
    if regions is not None:
        facts["regions_A"] = [rms_A(moved, weight * share) for share in regions]
        if own is not None:
            inside, outside = (rms_A(moved, weight * share) for share in (regions[own], 1 - regions[own]))
            facts["path"] = {"inside_A": inside, "outside_A": outside, "ratio": inside / max(outside, 1e-9)}
    elif own is not None:
        facts["along_A"] = float(np.ptp(np.percentile(space.coordinates[:, own], PERCENTILES)))
    return facts | {"points": path.points.tolist(), "points_in_empty_space": around.empty.tolist()}
