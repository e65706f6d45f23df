"""How Gaussians move: eigen-motions of all of them, and motions of regions.

Displacements are in Angstrom and weighted by the neutral amplitudes, so that a distance between two conformations is
the root of the mean square over the mass of the molecule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from scipy.linalg import eigh
from torch import Tensor

from cryomorph.analysis.latent import check_latent
from cryomorph.config.console import track
from cryomorph.config.errors import InputError
from cryomorph.representations.gaussians import Gaussians

SAMPLE = 2000  # particles whose displacements are analysed
NUMBERS = 2**27  # coordinates that these may hold: half a gigabyte
AT_ONCE = 2**20  # Gaussians, times latent points, that are moved at once
LEAST_SHARE = 1e-4  # of the variance, for a component to be kept
TANGENTS = 300  # particles over which derivatives of positions are averaged
FLOOR = 1e-2  # share of a region's largest squared motion that counts as motion elsewhere, in every direction


@dataclass(frozen=True)
class Motion:
    """A motion by its name: a unit vector among the coordinates of its space, and what else is known of it.

    Along a straight motion a unit of its coordinate is `step` in latent space, and the neutral model lies at `start`.
    """

    name: str
    direction: Float64[np.ndarray, " m"]
    facts: dict[str, Any] = field(default_factory=dict)
    step: Float64[np.ndarray, " q"] | None = None
    start: float = 0.0


@dataclass(frozen=True)
class MotionSpace:
    """Motions, and the coordinates that they are directions in.

    `scores` (n, m) are the particles' coordinates, of unit variance. `coordinates` (n, k) are the particles' places
    along each motion in Angstrom, as the root mean square displacement of all Gaussians for an eigen-motion, and of
    those of the region for another.
    """

    motions: tuple[Motion, ...]
    scores: Float64[np.ndarray, "n m"]
    coordinates: Float32[np.ndarray, "n k"]


def positions(
    model: Gaussians, z: Float[np.ndarray, "k q"], doing: str
) -> Iterator[tuple[slice, Float32[Tensor, "b n 3"]]]:
    """Positions of all Gaussians at many latent points, in pixels, some points at a time, with a bar that says why."""
    step = max(1, AT_ONCE // model.shape.count)
    for start in track(range(0, len(z), step), doing):
        rows = slice(start, min(start + step, len(z)))
        with torch.no_grad():
            yield rows, model.at(torch.as_tensor(z[rows], dtype=torch.float32)).position


def mass(model: Gaussians) -> Float64[np.ndarray, " n"]:
    """The neutral amplitudes as shares of their sum."""
    amplitude = model.neutral.amplitude[0].detach().double().numpy()
    return amplitude / amplitude.sum()


def eigen_motions(
    model: Gaussians, z: Float[np.ndarray, "k q"], *, pixel_A: float, components: int, seed: int = 0
) -> MotionSpace:
    """Principal components of the Gaussians' displacements over the particles.

    They are found on at most 2,000 particles at random, and every particle gets its place on each.

    Raises:
        InputError: fewer than two particles, or no Gaussian moves.
    """
    from sklearn.decomposition import PCA

    z64 = check_latent(z)
    count = min(SAMPLE, NUMBERS // (3 * model.shape.count), len(z64))
    if count < 2:
        raise InputError(f"{len(z64)} particles: expected at least two to see a motion")
    scale = (pixel_A * np.sqrt(mass(model))[:, None]).astype(np.float32)
    chosen = np.sort(np.random.default_rng(seed).choice(len(z64), count, replace=False))
    sample = np.empty((count, 3 * model.shape.count), dtype=np.float32)
    for rows, position in positions(model, z64[chosen], "displacements"):
        sample[rows] = (position.numpy() * scale).reshape(len(position), -1)
    if not np.ptp(sample, axis=0).max() > 1e-6 * pixel_A:
        raise InputError("no Gaussian moves from particle to particle: there are no motions")
    asked = min(components, count - 1, sample.shape[1])
    pca = PCA(asked, svd_solver="randomized", n_oversamples=20, iterated_power=7, random_state=seed).fit(sample)
    kept = pca.explained_variance_ratio_ > LEAST_SHARE
    ratio = pca.explained_variance_ratio_[kept]
    axes = pca.components_[kept].astype(np.float32)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    coordinates = np.empty((len(z64), len(axes)), dtype=np.float32)
    for rows, position in positions(model, z64, "coordinates"):
        moved = (position.numpy() * scale).reshape(len(position), -1) - pca.mean_.astype(np.float32)
        coordinates[rows] = moved @ axes.T
    spread = coordinates.std(axis=0, dtype=np.float64)
    scores = (coordinates - coordinates.mean(axis=0, dtype=np.float64)) / spread
    each = zip(np.eye(len(axes)), ratio.tolist(), spread.tolist(), strict=True)
    found = (
        Motion(f"pc{i + 1}", axis, {"explained_variance": share, "spread_A": deviation})
        for i, (axis, share, deviation) in enumerate(each)
    )
    return MotionSpace(tuple(found), scores, coordinates)


def localised_motions(
    model: Gaussians, z: Float[np.ndarray, "k q"], regions: Float64[np.ndarray, "r n"], *, pixel_A: float, seed: int = 0
) -> MotionSpace:
    """For each region the direction of latent space that moves it most, and the rest least.

    With `J_i` the derivative of a Gaussian's position by the latent point, `v` maximises `v^T A v / v^T B v`: `A` is
    the mean of `J_i^T J_i` over the region's mass, `B` that over the rest, plus a floor. Latent points are taken in
    units of the particles' own covariance and both matrices are means over 300 particles: a direction in which hardly
    any particle lies moves nothing, and the floor keeps it from winning.

    Args:
        regions: how far each Gaussian belongs to each region, 0 to 1; every region holds some mass, and not all.

    Raises:
        InputError: all particles share one latent point, or no Gaussian moves.
    """
    z64 = check_latent(z)
    mean = z64.mean(axis=0)
    variance, axes = np.linalg.eigh(np.cov(z64.T).reshape(z64.shape[1], -1))
    kept = variance > 1e-9 * max(variance.max(), 1e-300)
    if not variance.max() > 0:
        raise InputError("all particles have the same latent point: there are no motions")
    unwhiten = axes[:, kept] * np.sqrt(variance[kept])
    whiten = axes[:, kept] / np.sqrt(variance[kept])
    scores = (z64 - mean) @ whiten
    origin = model.origin.double().numpy()
    chosen = np.random.default_rng(seed).choice(len(z64), min(TANGENTS, len(z64)), replace=False)
    weight = mass(model)
    inside, outside = regions * weight, (1 - regions) * weight
    shares = np.concatenate([inside, outside])
    shares /= shares.sum(axis=1, keepdims=True)
    products = tangent_products(model, z64[chosen], unwhiten, shares=shares) * pixel_A**2
    found, along = [], []
    for number, (own, rest) in enumerate(zip(*np.split(products, 2), strict=True)):
        largest = float(np.linalg.eigvalsh(own)[-1])
        if not largest > 0:
            raise InputError(f"no Gaussian of region {number + 1} moves from particle to particle")
        solution = eigh(own, rest + FLOOR * largest * np.eye(len(rest)))[1][:, -1]
        direction = solution / np.linalg.norm(solution)
        step = unwhiten @ direction
        if step[np.abs(step).argmax()] < 0:
            direction, step = -direction, -step
        moved, elsewhere = (float(np.sqrt(direction @ part @ direction)) for part in (own, rest))
        start = float((origin - mean) @ whiten @ direction)
        facts = {
            "direction": (step / np.linalg.norm(step)).tolist(),
            "tangent": {"inside_A": moved, "outside_A": elsewhere, "ratio": moved / max(elsewhere, 1e-9)},
        }
        found.append(Motion(f"region{number + 1}", direction, facts, step, start))
        along.append(scores @ direction * moved)
    return MotionSpace(tuple(found), scores, np.stack(along, axis=1).astype(np.float32))


def tangent_products(
    model: Gaussians,
    z: Float64[np.ndarray, "k q"],
    steps: Float64[np.ndarray, "q m"],
    *,
    shares: Float64[np.ndarray, "s n"],
) -> Float64[np.ndarray, "s m m"]:
    """Means over latent points of `sum_i w_i (J_i S)^T (J_i S)`, in pixels squared, for several sets of weights `w`.

    Args:
        steps: `S`, the directions of latent space in columns.
    """
    total = np.zeros((len(shares), steps.shape[1], steps.shape[1]))
    directions = torch.as_tensor(steps.T, dtype=torch.float32)
    size = max(1, AT_ONCE // (model.shape.count * steps.shape[1]))
    for start in track(range(0, len(z), size), "derivatives of positions"):
        points = torch.as_tensor(z[start : start + size], dtype=torch.float32)
        with torch.no_grad():
            slope = model.slopes(points, directions)[0].double().numpy()  # (m, b, n, 3)
        for number, share in enumerate(shares):
            flat = (slope * np.sqrt(share)[:, None]).reshape(len(slope), -1)
            total[number] += flat @ flat.T
    return total / len(z)


def combined(motions: Sequence[Motion], text: str) -> Motion:
    """A combination such as `1+2` or `1-2` of motions counted from 1, each as far as the particles spread.

    Raises:
        InputError: it names a motion that there is not, or one twice.
    """
    terms = [(sign or "+", int(number)) for sign, number in re.findall(r"([+-]?)(\d+)", text)]
    numbers = [number for _, number in terms]
    for number in numbers:
        if not 1 <= number <= len(motions):
            raise InputError(f"--combine {text}: there are motions 1 to {len(motions)}, not {number}")
    if len(set(numbers)) < len(numbers):
        raise InputError(f"--combine {text}: expected different motions, each once")
    name = "".join(f"{sign}{motions[number - 1].name}" for sign, number in terms).removeprefix("+")
    parts = [motions[number - 1] for number in numbers]
    signs = np.array([1.0 if sign == "+" else -1.0 for sign, _ in terms])
    total = signs @ np.stack([part.direction for part in parts])
    length = float(np.linalg.norm(total))
    if length < 1e-6:
        raise InputError(f"--combine {text}: these motions cancel; choose others")
    facts = {"combination": text}
    steps = [part.step for part in parts if part.step is not None]
    if not steps:
        return Motion(name, total / length, facts)
    start = float(signs @ np.array([part.start for part in parts])) / length
    return Motion(name, total / length, facts, signs @ np.stack(steps) / length, start)


def rms_A(displacement: Float[np.ndarray, "n 3"], weight: Float[np.ndarray, " n"]) -> float:
    """Root mean square length of displacements, weighted."""
    return float(np.sqrt((weight * np.square(displacement).sum(axis=1)).sum() / weight.sum()))
