"""Atomic models that follow Gaussians: each atom moves with those about it as with a rigid body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from scipy.spatial import cKDTree
from torch import Tensor

from cryomorph.analysis.latent import check_latent, kmeans_on_data
from cryomorph.analysis.motions.paths import FileFrame
from cryomorph.config.console import say, track, warn
from cryomorph.config.errors import InputError
from cryomorph.io.structure import Atoms
from cryomorph.physics.gaussian_slices import Mixture, gaussian_map
from cryomorph.representations.gaussians import Gaussians
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.fsc import resolution_A

NEIGHBOURS = 24  # Gaussians that an atom may follow
SPACING_OF = 6  # neighbours whose mean distance measures the spacing of Gaussians
AT_ONCE = 2**16  # atoms moved at once
CENTRES = 50  # conformations that a model is compared with
LARGEST_BOX = 128  # voxels of the maps that are compared
UNLIKE = 0.5  # correlation below which a model hardly fits the maps
WIDTH = 0.225  # width of an atom's Gaussian as a share of the resolution: Chimera's molmap


@dataclass(frozen=True)
class Fit:
    """The conformation that a model is taken to be in: a particle's (0-based).

    `correlation` is that of its map with the model's; None where the particle was given.
    """

    particle: int
    correlation: float | None


def spacing(position: Float[np.ndarray, "n 3"]) -> float:
    """The spacing of Gaussians: the median of each one's mean distance to its six nearest."""
    count = min(SPACING_OF, len(position) - 1)
    return float(np.median(np.asarray(cKDTree(position).query(position, k=count + 1)[0])[:, 1:].mean(axis=1)))


def follow(
    atoms: Float[np.ndarray, "m 3"],
    start: Float[np.ndarray, "n 3"],
    stops: Float[np.ndarray, "k n 3"],
    *,
    weight: Float[np.ndarray, " n"],
    width: float | None = None,
) -> Float64[np.ndarray, "k m 3"]:
    """Where atoms go when Gaussians go from `start` to each of `stops`: moving least squares with rigid bodies.

    For every atom the rotation and translation that take its nearest Gaussians to where they went, weighted by
    `exp(-d^2 / 2 width^2)` times their mass (Schaefer et al. 2006, ACM Trans. Graph. 25, 533; rotations by Kabsch's
    singular value decomposition). A motion of the whole as a rigid body is followed exactly.

    Args:
        weight: the Gaussians' masses, not negative.
        width: of the weights, in the unit of the positions; the Gaussians' own spacing if not given.

    Raises:
        InputError: fewer than three Gaussians.
    """
    if len(start) < 3:
        raise InputError(f"{len(start)} Gaussians are too few to turn a model with: expected three or more")
    width = spacing(start) if width is None else width
    distance, index = (np.asarray(part) for part in cKDTree(start).query(atoms, k=min(NEIGHBOURS, len(start))))
    # relative to the nearest, so that an atom far from all follows that one instead of none
    exponent = (np.square(distance[:, :1]) - np.square(distance)) / (2 * width**2)
    share = np.exp(exponent) * np.maximum(weight[index], 1e-6 * weight.max())
    share /= share.sum(axis=1, keepdims=True)
    found = np.empty((len(stops), len(atoms), 3))
    for begin in range(0, len(atoms), AT_ONCE):
        rows = slice(begin, begin + AT_ONCE)
        own, near = torch.from_numpy(share[rows]), index[rows]
        before = torch.from_numpy(start[near].astype(np.float64))
        points = torch.from_numpy(atoms[rows].astype(np.float64))
        for number, stop in enumerate(stops):
            after = torch.from_numpy(stop[near].astype(np.float64))
            found[number, rows] = _carried(points, before, after, share=own).numpy()
    return found


def _carried(
    points: Float[Tensor, "m 3"],
    before: Float[Tensor, "m k 3"],
    after: Float[Tensor, "m k 3"],
    *,
    share: Float[Tensor, "m k"],
) -> Float[Tensor, "m 3"]:
    """Each point carried by the rigid body that takes its neighbours from before to after (Kabsch 1976)."""
    centre, goal = ((share[..., None] * part).sum(1) for part in (before, after))
    moment = (share[..., None] * (after - goal[:, None])).mT @ (before - centre[:, None])
    u, _, vh = torch.linalg.svd(moment)
    sign = torch.ones(len(points), 3, dtype=points.dtype)
    sign[:, 2] = torch.det(u @ vh).sign()
    rotation = (u * sign[:, None]) @ vh
    return (rotation @ (points - centre)[..., None])[..., 0] + goal


def fitted_conformation(
    model: Gaussians,
    z: Float[np.ndarray, "n q"],
    atoms: Atoms,
    *,
    position: Float[np.ndarray, "m 3"],
    resolution_px: float,
    seed: int = 0,
) -> Fit:
    """The particle, of 50 k-means centres of the latent points, whose map is most like that of an atomic model.

    Args:
        position: the model's atoms in pixels of the working box, from its origin.
        resolution_px: the resolution of its map, in pixels.

    Raises:
        InputError: most of the model lies outside of the box.
    """
    outside = (np.abs(position) > model.shape.box / 2).any(axis=1)
    if outside.mean() > 0.5:
        raise InputError(
            f"{atoms.path}: {outside.sum()} of its {len(outside)} atoms lie outside of the maps: fit it into a map of "
            "this run first"
        )
    box = min(model.shape.box, LARGEST_BOX)
    inside = ~outside
    cloud = Mixture(
        torch.as_tensor(position[inside], dtype=torch.float32)[None],
        torch.full((1, int(inside.sum())), WIDTH * resolution_px),
        torch.as_tensor(atoms.weight[inside], dtype=torch.float32)[None],
    )
    shape = gaussian_map(cloud.scaled(box / model.shape.box), box)
    particles = kmeans_on_data(check_latent(z), min(CENTRES, len(z)), seed=seed).centre_index
    found = []
    for particle in track(particles, "comparing the model", total=len(particles)):
        found.append(correlation(shape, model.volume(torch.as_tensor(z[particle], dtype=torch.float32), box)))
    best = int(np.argmax(found))
    return Fit(int(particles[best]), found[best])


def find_conformation(
    run: RunFolder,
    atoms: Atoms,
    *,
    particle: int | None,
    z: Float64[np.ndarray, "n q"],
    model: Gaussians,
    frame: FileFrame,
) -> Fit:
    """The conformation that an atomic model was fitted to: that of a given particle, or the one most like it.

    Raises:
        InputError: there is no such particle, or most of the model lies outside of the box.
    """
    if particle is not None:
        if particle >= len(z):
            raise InputError(f"--model-at {particle}: the run has particles 0 to {len(z) - 1} (numbers are 0-based)")
        return Fit(particle, None)
    finest = max(resolution_A(run.consensus_fsc().corrected, frame.pixel_A) / frame.pixel_A, 2.0)
    position = frame.from_file(atoms.position)
    fit = fitted_conformation(model, z, atoms, position=position, resolution_px=finest)
    say(f"model: most like particle {fit.particle} (0-based), whose map correlates with it by {fit.correlation:.3f}")
    if fit.correlation is not None and fit.correlation < UNLIKE:
        warn(f"{atoms.path} is little like any map of this run (correlation {fit.correlation:.2f}): was it fitted into "
             "one, as ChimeraX shows it, and of this hand?")  # fmt: skip
    return fit


def correlation(one: Float32[Tensor, "z y x"], other: Float32[Tensor, "z y x"]) -> float:
    """Pearson's correlation of two maps."""
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])
