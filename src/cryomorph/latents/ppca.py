"""One iteration of probabilistic PCA of maps by expectation-maximisation on images.

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

CONTRASTS = torch.linspace(0.4, 1.6, 25)
CONTRAST_STD = 0.2  # of the prior around 1
SOLVE_CHUNK = 65_536  # grid points solved at once


@dataclass(frozen=True)
class LatentPosterior:
    """Gaussian posterior of each image's latent point: `mean` (n, q) and `covariance` (n, q, q).

    `contrast` (n,) is each image's amplitude (1 unless estimated), `log_likelihood` (n,) its marginal log-likelihood
    without terms that do not depend on the model.
    """

    mean: Float32[Tensor, "n q"]
    covariance: Float32[Tensor, "n q q"]
    contrast: Float32[Tensor, " n"]
    log_likelihood: Float32[Tensor, " n"]

    @staticmethod
    def cat(parts: list[LatentPosterior]) -> LatentPosterior:
        """Concatenate the posteriors of several batches."""
        names = ("mean", "covariance", "contrast", "log_likelihood")
        return LatentPosterior(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def second_moment(self) -> Float32[Tensor, "q q"]:
        """`E[z z^T]` averaged over the images."""
        return (self.mean.T @ self.mean) / len(self.mean) + self.covariance.mean(0)


def posterior_of(
    gram: Float32[Tensor, "b c c"], overlap: Float32[Tensor, "b c"], *, estimate_contrast: bool
) -> LatentPosterior:
    """Exact posterior of `z ~ N(0, I)` for images `X = a C (mean + U z) + noise`.

    Args:
        gram: `A^T A` over the whole Fourier plane, `A = [C mean, C U_1, ..., C U_q]`.
        overlap: `A^T X` over the whole plane.
        estimate_contrast: take the best `a` of a grid, with a Gaussian prior around 1; otherwise `a = 1`.

    `M = a^2 U^T C^2 U + I`, `z = M^-1 (a U^T C X - a^2 U^T C^2 mean)`, covariance `M^-1`.
    """
    contrast = gram.new_ones(len(gram))
    if estimate_contrast:
        values, vectors = torch.linalg.eigh(gram[:, 1:, 1:])
        data = torch.einsum("bqk,bq->bk", vectors, overlap[:, 1:])
        mean = torch.einsum("bqk,bq->bk", vectors, gram[:, 1:, 0])
        a = CONTRASTS.to(gram)[:, None, None]
        precision = a**2 * values + 1
        quadratic = ((a * data - a**2 * mean) ** 2 / precision - precision.log()).sum(-1)
        a = a[..., 0]
        score = a * overlap[:, 0] - 0.5 * a**2 * gram[:, 0, 0] + 0.5 * quadratic - 0.5 * ((a - 1) / CONTRAST_STD) ** 2
        contrast = CONTRASTS.to(gram)[score.argmax(0)]
    a = contrast[:, None]
    precision = a[..., None] ** 2 * gram[:, 1:, 1:] + torch.eye(gram.shape[1] - 1, device=gram.device)
    projected = a * overlap[:, 1:] - a**2 * gram[:, 1:, 0]
    factor = torch.linalg.cholesky(precision)
    mean = torch.cholesky_solve(projected[..., None], factor)[..., 0]
    likelihood = (
        contrast * overlap[:, 0]
        - 0.5 * contrast**2 * gram[:, 0, 0]
        + 0.5 * (projected * mean).sum(1)
        - factor.diagonal(dim1=1, dim2=2).log().sum(1)
    )
    return LatentPosterior(mean, torch.cholesky_inverse(factor), contrast, likelihood)


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
    `whitening` (size,): factor of each coefficient that corrects the stored noise amplitude. `mask`: where the maps may
    have density, 0 to 1, in their box.
    """

    precision: Float32[Tensor, "c shells"]
    whitening: Float32[Tensor, " size"]
    mask: Float32[Tensor, "z y x"]
    estimate_contrast: bool = False


def e_step(
    batch: Batch, slices: Slices, model: Complex64[Tensor, "rows c"], *, estimate_contrast: bool
) -> LatentPosterior:
    """Posterior of a batch, given the model's grid rows `(rows, c)`."""
    projected = slices.extract(model) * batch.ctf[..., None]
    columns = torch.view_as_real(projected).transpose(2, 3).flatten(1, 2)
    image = torch.view_as_real(batch.image).flatten(1)
    # sums over the half-plane count twice in the whole plane
    gram = 2 * columns.mT @ columns
    overlap = 2 * (columns.mT @ image[..., None])[..., 0]
    return posterior_of(gram, overlap, estimate_contrast=estimate_contrast)


def infer(
    batches: Iterable[Batch],
    model: Subspace,
    *,
    whitening: Float32[Tensor, " size"],
    estimate_contrast: bool = False,
) -> LatentPosterior:
    """Posterior of every particle by the E-step only; `whitening` as in `EmProblem`."""
    rows = model.grid.from_volumes(model.maps)
    frequency = fourier_disk(model.grid.box).frequency
    parts = []
    for given in batches:
        batch = given.whitened(whitening)
        slices = locate_slices(model.grid, frequency[: batch.image.shape[1]], batch.rotation)
        parts.append(e_step(batch, slices, rows, estimate_contrast=estimate_contrast))
    return LatentPosterior.cat(parts)


def em_iteration(batches: Iterable[Batch], model: Subspace, problem: EmProblem) -> tuple[Subspace, LatentPosterior]:
    """One pass over the particles: E-step and sums of each batch, then the M-step.

    Returns:
        The new model, and the posteriors under the old one.
    """
    size = len(model.maps)
    upper = torch.triu_indices(size, size)
    rows = model.grid.from_volumes(model.maps)
    frequency = fourier_disk(model.grid.box).frequency
    numerator = torch.zeros(model.grid.rows, size, dtype=torch.complex64)
    weight = torch.zeros(model.grid.rows, upper.shape[1])
    parts = []
    for given in batches:
        batch = given.whitened(problem.whitening)
        slices = locate_slices(model.grid, frequency[: batch.image.shape[1]], batch.rotation)
        posterior = e_step(batch, slices, rows, estimate_contrast=problem.estimate_contrast)
        first, second = _moments(posterior)
        added, density = slices.insert(
            (batch.image * batch.ctf)[..., None] * first[:, None],
            batch.ctf.square()[..., None] * second[:, None, upper[0], upper[1]],
        )
        numerator += added
        weight += density
        parts.append(posterior)
    model.grid.fold(numerator)
    model.grid.fold(weight)
    maps = m_step(model.grid, numerator, weight, precision=problem.precision) * problem.mask
    posterior = LatentPosterior.cat(parts)
    if problem.estimate_contrast:
        # contrast and maps share a scale, which would drift: the maps take it, so that the mean contrast is 1
        maps = maps * posterior.contrast.mean()
    return Subspace(model.grid, maps), posterior


def _moments(posterior: LatentPosterior) -> tuple[Float32[Tensor, "b c"], Float32[Tensor, "b c c"]]:
    """`a E[e]` and `a^2 E[e e^T]` of `e = (1, z)`."""
    e = torch.cat([posterior.mean.new_ones(len(posterior.mean), 1), posterior.mean], dim=1)
    second = e[:, :, None] * e[:, None, :]
    second[:, 1:, 1:] += posterior.covariance
    a = posterior.contrast
    return a[:, None] * e, a[:, None, None] ** 2 * second


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
