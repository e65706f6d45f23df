"""One coordinate along the curve that particles make in volume space.

A motion that carries density farther than its own width is a curve there, not a line: its first principal component
turns back before the motion ends. With the noise-free maps of a domain that swings by 1.5 radians its rank correlation
with the angle is 0.91, that of the length along the curve is 1 (tests/analysis/test_landscape_curve.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from scipy.spatial import cKDTree

from cryomorph.analysis.landscape.embedding import Spline
from cryomorph.latents.isomap import curve_coordinate

SAMPLE = 2000  # particles over which the noise is averaged
LEAST = 0.01  # of a component's spread: no coordinate is known better than that
MOST = 20_000  # particles the curve is fitted to; the others take the place of their neighbours
NEIGHBOURS = 10
SLICES = 50  # of the curve, in which what it leaves unexplained is measured


@dataclass(frozen=True)
class VolumeCurve:
    """Where particles lie along a curve through volume space.

    `position` is the length along it, of mean 0 and standard deviation 1; `explained` the share of the particles'
    variance in volume space between places along the curve, `noise` the share that the latent points' own uncertainty
    makes: both together are near 1 where the curve is all there is.
    """

    position: Float32[np.ndarray, " n"]
    explained: float
    noise: float


def volume_curve(
    spline: Spline,
    coordinates: Float32[np.ndarray, "n p"],
    *,
    z: Float[np.ndarray, "n q"],
    std: Float[np.ndarray, "n q"],
    seed: int = 0,
) -> VolumeCurve:
    """The curve through all particles' coordinates, as if there were one (see `curve_coordinate`).

    Args:
        spline: from latent points to coordinates; carries the uncertainty of `z` over to volume space.
        std: standard deviations of the latent points.
    """
    total = coordinates.var(axis=0, dtype=np.float64)
    noise = np.minimum(_noise(spline, z, std, seed=seed), total)
    information = torch.from_numpy(1 / np.maximum(noise, LEAST**2 * total.max())).float()
    chosen = np.sort(np.random.default_rng(seed).permutation(len(coordinates))[:MOST])
    best = torch.from_numpy(coordinates[chosen])
    position = curve_coordinate(best, information.expand(len(best), -1), seed=seed)[0].numpy()
    if len(chosen) < len(coordinates):
        # as far as its neighbours: the average of a few is no less certain than each
        distance, near = (np.asarray(a) for a in cKDTree(coordinates[chosen]).query(coordinates, k=NEIGHBOURS))
        own = distance[:, 0] == 0
        position = np.where(own, position[near[:, 0]], position[near].mean(axis=1)).astype(np.float32)
    slices = np.array_split(coordinates[np.argsort(position, kind="stable")], max(2, min(SLICES, len(position) // 20)))
    within = sum(len(part) * part.var(axis=0, dtype=np.float64) for part in slices) / len(position)
    return VolumeCurve(position, float(1 - np.sum(within) / total.sum()), float(noise.sum() / total.sum()))


def _noise(
    spline: Spline, z: Float[np.ndarray, "n q"], std: Float[np.ndarray, "n q"], *, seed: int
) -> Float[np.ndarray, " p"]:
    """Variance of each coordinate by the uncertainty of the latent points, the mean over some particles."""
    chosen = np.random.default_rng(seed).permutation(len(z))[:SAMPLE]
    here, spread = z[chosen].astype(np.float64), std[chosen].astype(np.float64)
    total = np.zeros(spline(here[:1]).shape[1])
    for axis in range(z.shape[1]):
        step = np.zeros_like(here)
        step[:, axis] = spread[:, axis]
        total += np.square((spline(here + step) - spline(here - step)) / 2).mean(axis=0)
    return total
