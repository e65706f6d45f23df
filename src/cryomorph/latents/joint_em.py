"""EM of a linear subspace with the nuisances of every particle, and the E-step alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.latents.joint import JointModel, JointPosterior, seen_through_shifts
from cryomorph.latents.nuisance import NuisancePrior, Nuisances
from cryomorph.latents.ppca import EmProblem, Subspace, m_step
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.slicing import locate_slices

SPLIT_ITERATIONS = 3  # from what all coefficients say, until that is forgotten


@dataclass(frozen=True)
class Located:
    """Where the particles of a store are known to be: latent points (n, q) and nuisances; rows of others are zero."""

    z: Float32[Tensor, "n q"]
    nuisances: Nuisances

    @classmethod
    def unknown(cls, n: int, zdim: int) -> Located:
        """The prior's means."""
        return cls(torch.zeros(n, zdim), Nuisances.none(n))

    def copy(self) -> Located:
        """A copy that may be written into."""
        return Located(self.z.clone(), Nuisances(self.nuisances.value.clone(), self.nuisances.variance.clone()))

    def put(self, index: Int64[Tensor, " k"], found: JointPosterior, *, copies: int = 1) -> None:
        """Enter the posterior of some particles, in place; all copies of each are among them, one after the other."""
        nuisances = found.nuisances.shared(copies)
        self.z[index] = found.mean
        self.nuisances.value[index] = nuisances.value
        self.nuisances.variance[index] = nuisances.variance


def infer_jointly(
    batches: Iterable[Batch],
    model: Subspace,
    *,
    disk: FourierDisk,
    whitening: Float32[Tensor, " size"],
    prior: NuisancePrior,
    known: Located,
    iterations: int,
) -> JointPosterior:
    """Posterior of every particle by the E-step only, from where the particles are known to be."""
    joint = JointModel.of(model, prior, frequency=disk.frequency, box=disk.box)
    parts = []
    for given in batches:
        start = known.nuisances.value[given.index]
        parts.append(joint.locate(given.whitened(whitening), known.z[given.index], start, iterations=iterations))
    return JointPosterior.cat(parts)


def infer_from_halves(
    batches: Iterable[Batch],
    model: Subspace,
    *,
    disk: FourierDisk,
    whitening: Float32[Tensor, " size"],
    prior: NuisancePrior,
    known: Located,
) -> tuple[JointPosterior, JointPosterior]:
    """Posteriors from the even, and from the odd coefficients of each image alone: their nuisances too.

    The two share no noise: what is chosen by one can be judged by the other.
    """
    kept = (disk.even, ~disk.even)
    joint = JointModel.of(model, prior, frequency=disk.frequency, box=disk.box)
    joints = [replace(joint, frequency=disk.frequency[part]) for part in kept]
    parts: tuple[list[JointPosterior], list[JointPosterior]] = ([], [])
    for given in batches:
        batch = given.whitened(whitening)
        z, start = known.z[given.index], known.nuisances.value[given.index]
        for found, joint, part in zip(parts, joints, kept, strict=True):
            found.append(joint.locate(batch.at(part), z, start, iterations=SPLIT_ITERATIONS))
    return JointPosterior.cat(parts[0]), JointPosterior.cat(parts[1])


def joint_em_iteration(
    batches: Iterable[Batch],
    model: Subspace,
    problem: EmProblem,
    *,
    disk: FourierDisk,
    prior: NuisancePrior,
    known: Located,
    iterations: int = 1,
) -> tuple[Subspace, JointPosterior]:
    """One pass: every particle located from where it is known to be, then the maps from images at corrected poses.

    An image counts by the probability that it shows a particle.

    Returns:
        The new model, and the posteriors under the old one, their mean contrast 1: the maps take the scale.
    """
    size = len(model.maps)
    upper = torch.triu_indices(size, size)
    joint = JointModel.of(model, prior, frequency=disk.frequency, box=disk.box)
    cycles = disk.frequency / disk.box
    numerator = torch.zeros(model.grid.rows, size, dtype=torch.complex64)
    weight = torch.zeros(model.grid.rows, upper.shape[1])
    parts = []
    for given in batches:
        batch = given.whitened(problem.whitening)
        start = known.nuisances.value[given.index]
        posterior = joint.locate(batch, known.z[given.index], start, iterations=iterations)
        moved = batch.moved(posterior.nuisances.offset, cycles)
        shown = posterior.shown(prior.empty)
        first, second = posterior.moments()
        seen = seen_through_shifts(posterior, first, cycles) * shown[:, None, None]
        added, density = locate_slices(model.grid, disk.frequency, moved.rotation).insert(
            (moved.image * moved.ctf)[..., None] * seen,
            moved.ctf.square()[..., None] * (second[:, None, upper[0], upper[1]] * shown[:, None, None]),
        )
        numerator += added
        weight += density
        parts.append(posterior)
    model.grid.fold(numerator)
    model.grid.fold(weight)
    maps = m_step(model.grid, numerator, weight, precision=problem.precision)
    posterior = JointPosterior.cat(parts)
    scale = 1.0
    if prior.contrast:
        shown = posterior.shown(prior.empty)
        scale = float((posterior.nuisances.contrast * shown).sum() / shown.sum())
    posterior = replace(posterior, nuisances=posterior.nuisances.rescaled(scale))
    return Subspace(model.grid, problem.confined(maps) * scale), posterior
