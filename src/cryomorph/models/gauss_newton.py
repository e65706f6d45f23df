"""Gauss-Newton on the parameters of single particles: latent point, rotation, shift.

Finds the posterior of a few parameters under a fixed model, for all particles of a batch at once. For the latent point
under a linear model, one step gives the exact posterior of probabilistic PCA.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.particles.store import Batch
from cryomorph.physics.disk import FourierDisk
from cryomorph.representations.base import Representation

FIRST_DAMPING = 1e-3
WORSE, BETTER = 10.0, 0.3


@dataclass(frozen=True)
class Unknowns:
    """Free parameters and their Gaussian priors, in one row: latent point, rotation vector, shift.

    `prior_std` (b, p), about zero: of the latent coordinates, unless `fixed_z` (b, zdim) fixes them; then, if `pose`,
    of three rotations in radians about the image's axes and of two shifts in pixels.
    """

    prior_std: Float32[Tensor, "b p"]
    fixed_z: Float32[Tensor, "b zdim"] | None = None
    pose: bool = False

    def split(self, values: Float32[Tensor, "b p"]) -> tuple[Float32[Tensor, "b zdim"], Float32[Tensor, "b offset"]]:
        """Latent points and pose offsets (of width 0 if the pose is fixed) in rows of parameters."""
        if self.fixed_z is not None:
            return self.fixed_z, values
        zdim = values.shape[1] - (5 if self.pose else 0)
        return values[:, :zdim], values[:, zdim:]


@dataclass(frozen=True)
class LocalPosterior:
    """Gaussian about the best point found: `value` (b, p), `covariance` (b, p, p), `nll` (b,) of the images there.

    Rotations are offsets `exp(v) R` and shifts are offsets in pixels, from the pose of the batch.
    """

    value: Float32[Tensor, "b p"]
    covariance: Float32[Tensor, "b p p"]
    nll: Float32[Tensor, " b"]


@torch.no_grad()
def gauss_newton(
    representation: Representation,
    batch: Batch,
    start: Float32[Tensor, "b p"],
    *,
    unknowns: Unknowns,
    disk: FourierDisk,
    iterations: int = 2,
    half_precision: bool = False,
) -> LocalPosterior:
    """Minimise `|X - C V|^2 + prior` over each particle's own parameters, with Levenberg's damping.

    Args:
        start: latent points, then pose offsets, as far as they are unknown.
        disk: the coefficients that the batch holds.
        half_precision: take the network's products in bfloat16.

    A particle whose steps increase the loss stays at its best point.
    """
    precision = unknowns.prior_std.square().reciprocal()
    best, best_value = start, start.new_full((len(start),), torch.inf)
    best_nll = best_value
    system = torch.diag_embed(precision)
    pull = torch.zeros_like(start)
    damping = start.new_full((len(start),), FIRST_DAMPING)
    here = start
    for _ in range(iterations + 1):
        residual, jacobian = _linearised(
            representation, batch, here, unknowns=unknowns, disk=disk, half_precision=half_precision
        )
        nll = residual.square().sum(1)
        value = nll + 0.5 * (precision * here.square()).sum(1)
        better = value < best_value  # never if it is nan
        damping = torch.where(better, damping * BETTER, damping * WORSE)
        best = torch.where(better[:, None], here, best)
        best_value, best_nll = torch.where(better, value, best_value), torch.where(better, nll, best_nll)
        # sums over the half-plane are half of those over the whole plane
        hessian = 2 * jacobian.mT @ jacobian + torch.diag_embed(precision)
        gradient = 2 * (jacobian.mT @ residual[..., None])[..., 0] - precision * here
        system = torch.where(better[:, None, None], hessian, system)
        pull = torch.where(better[:, None], gradient, pull)
        damped = system + torch.diag_embed(damping[:, None] * system.diagonal(dim1=1, dim2=2) + 1e-12)
        here = best + torch.linalg.solve(damped, pull[..., None])[..., 0]
    factor = torch.linalg.cholesky_ex(system)[0]
    return LocalPosterior(best, torch.cholesky_inverse(factor), best_nll)


def _linearised(
    representation: Representation,
    batch: Batch,
    here: Float32[Tensor, "b p"],
    *,
    unknowns: Unknowns,
    disk: FourierDisk,
    half_precision: bool,
) -> tuple[Float32[Tensor, "b m2"], Float32[Tensor, "b m2 p"]]:
    """Residual `X - C V` and the derivatives of `C V` at each particle's point, as real numbers."""
    z, offset = unknowns.split(here)
    moved = batch.moved(offset, disk.frequency / disk.box) if unknowns.pose else batch
    with torch.autocast(z.device.type, torch.bfloat16, enabled=half_precision):
        slices, columns = representation.tangents(
            z, moved.rotation, disk, latent=unknowns.fixed_z is None, pose=unknowns.pose
        )
    if unknowns.pose:
        # shifting the image by s is shifting the model by -s
        turning = 2j * torch.pi * disk.frequency.to(z) / disk.box
        columns = torch.cat([columns, slices[..., None] * turning], dim=2)
    residual = torch.view_as_real(moved.image - moved.ctf * slices).flatten(1)
    return residual, torch.view_as_real(moved.ctf[..., None] * columns).transpose(2, 3).flatten(1, 2)
