"""Probabilistic PCA of maps: the exact E-step where poses and contrasts are known, and the M-step.

See docs/methods.md, "Linear subspace".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Complex64, Float32
from torch import Tensor

from cryomorph.particles.store import Batch
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.slicing import PaddedGrid, Slices, locate_slices
from cryomorph.volumes.backproject import rows_in_band

SOLVE_CHUNK = 65_536  # grid points solved at once


@dataclass(frozen=True)
class LatentPosterior:
    """Gaussian posterior of each image's latent point: `mean` (n, q) and `covariance` (n, q, q).

    `log_likelihood` (n,) is each image's marginal log-likelihood without terms that do not depend on the model.
    """

    mean: Float32[Tensor, "n q"]
    covariance: Float32[Tensor, "n q q"]
    log_likelihood: Float32[Tensor, " n"]

    @staticmethod
    def cat(parts: list[LatentPosterior]) -> LatentPosterior:
        """Concatenate the posteriors of several batches."""
        names = ("mean", "covariance", "log_likelihood")
        return LatentPosterior(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def posterior_of(gram: Float32[Tensor, "b c c"], overlap: Float32[Tensor, "b c"]) -> LatentPosterior:
    """Exact posterior of `z ~ N(0, I)` for images `X = C (mean + U z) + noise`.

    Args:
        gram: `A^T A` over the whole Fourier plane, `A = [C mean, C U_1, ..., C U_q]`.
        overlap: `A^T X` over the whole plane.

    `M = U^T C^2 U + I`, `z = M^-1 (U^T C X - U^T C^2 mean)`, covariance `M^-1`.
    """
    precision = gram[:, 1:, 1:] + torch.eye(gram.shape[1] - 1, device=gram.device)
    projected = overlap[:, 1:] - gram[:, 1:, 0]
    factor = torch.linalg.cholesky(precision)
    mean = torch.cholesky_solve(projected[..., None], factor)[..., 0]
    likelihood = (
        overlap[:, 0]
        - 0.5 * gram[:, 0, 0]
        + 0.5 * (projected * mean).sum(1)
        - factor.diagonal(dim1=1, dim2=2).log().sum(1)
    )
    return LatentPosterior(mean, torch.cholesky_inverse(factor), likelihood)


@dataclass(frozen=True)
class Subspace:
    """The model during EM: maps of the mean, then of the components, in a box of twice the radius."""

    grid: PaddedGrid
    maps: Float32[Tensor, "c z y x"]

    @property
    def zdim(self) -> int:
        """Number of components."""
        return len(self.maps) - 1


@dataclass(frozen=True)
class EmProblem:
    """What stays constant over the EM iterations at one radius.

    `precision` (c, shells): the prior's precision of the mean and of each component at one grid point of a shell.
    `whitening` (size,): factor of each coefficient that corrects the stored noise amplitude. `mask`: where particles
    may differ, 0 to 1, in the maps' box; `mean_mask`: where the mean may have density (default: the same).
    """

    precision: Float32[Tensor, "c shells"]
    whitening: Float32[Tensor, " size"]
    mask: Float32[Tensor, "z y x"]
    mean_mask: Float32[Tensor, "z y x"] | None = None

    def confined(self, maps: Float32[Tensor, "c z y x"]) -> Float32[Tensor, "c z y x"]:
        """Maps with density only where the masks allow it."""
        mean_mask = self.mask if self.mean_mask is None else self.mean_mask
        return torch.cat([maps[:1] * mean_mask, maps[1:] * self.mask])


def e_step(batch: Batch, slices: Slices, model: Complex64[Tensor, "rows c"]) -> LatentPosterior:
    """Posterior of a batch, given the model's grid rows `(rows, c)`."""
    projected = slices.extract(model) * batch.ctf[..., None]
    columns = torch.view_as_real(projected).transpose(2, 3).flatten(1, 2)
    image = torch.view_as_real(batch.image).flatten(1)
    # sums over the half-plane count twice in the whole plane
    gram = 2 * columns.mT @ columns
    overlap = 2 * (columns.mT @ image[..., None])[..., 0]
    return posterior_of(gram, overlap)


def infer(
    batches: Iterable[Batch],
    model: Subspace,
    *,
    whitening: Float32[Tensor, " size"],
) -> LatentPosterior:
    """Posterior of every particle by the E-step only; `whitening` as in `EmProblem`."""
    rows = model.grid.from_volumes(model.maps)
    frequency = fourier_disk(model.grid.box).frequency
    parts = []
    for given in batches:
        batch = given.whitened(whitening)
        slices = locate_slices(model.grid, frequency[: batch.image.shape[1]], batch.rotation)
        parts.append(e_step(batch, slices, rows))
    return LatentPosterior.cat(parts)


def m_step(
    grid: PaddedGrid,
    numerator: Complex64[Tensor, "rows c"],
    weight: Float32[Tensor, "rows pairs"],
    *,
    precision: Float32[Tensor, "c shells"],
) -> Float32[Tensor, "c z y x"]:
    """Unmasked maps: solve the `(q + 1) x (q + 1)` system of every grid point within the radius."""
    size = numerator.shape[1]
    upper = torch.triu_indices(size, size)
    inside, shell = rows_in_band(grid)
    estimate = torch.zeros_like(numerator)
    for chunk in torch.arange(len(inside)).split(SOLVE_CHUNK):
        row = inside[chunk]
        system = weight.new_empty(len(row), size, size)
        system[:, upper[0], upper[1]] = weight[row]
        system[:, upper[1], upper[0]] = weight[row]
        system.diagonal(dim1=1, dim2=2).add_(precision.T[shell[chunk]])
        solved = torch.linalg.solve(system, torch.view_as_real(numerator[row]))
        estimate[row] = torch.view_as_complex(solved.contiguous())
    return grid.to_volumes(estimate)
