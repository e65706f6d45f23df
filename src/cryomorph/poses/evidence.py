"""The likelihood of a pose under a linear subspace, with the latent point integrated out.

An image is `X = C (a S_0 + sum_k z_k S_k) + noise` with `z ~ N(0, I)`. A pose enters through the image's overlaps with
the slices `S_0` of the mean and `S_k` of the components, and through their Gram matrix, so that its likelihood is a
Gaussian integral over few dimensions. Without components it is the likelihood of a single map. See docs/methods.md,
"Linear subspace" and "Ab initio".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

MIN_ORTHOGONAL = 1e-5  # least share of the mean's power that is taken as orthogonal to the components


@dataclass(frozen=True)
class PoseEvidence:
    """The marginal likelihood of poses as a function of the mean map's amplitude `a`, and the posterior of z.

    The log-likelihood, minus that of pure noise, is `constant + a linear - a^2 quadratic / 2`; the posterior of z has
    the mean `free - a bound` and a covariance that does not depend on `a`. Poses that share a slice share `quadratic`,
    `bound` and `covariance`, whose shapes broadcast against the others.
    """

    constant: Float32[Tensor, "*poses"]
    linear: Float32[Tensor, "*poses"]
    quadratic: Float32[Tensor, "*slices"]
    free: Float32[Tensor, "q ..."]
    bound: Float32[Tensor, "q ..."]
    covariance: Float32[Tensor, "*slices q q"]

    @classmethod
    def of(cls, overlap: Float32[Tensor, "c ..."], gram: Float32[Tensor, "*slices c c"]) -> PoseEvidence:
        """Integrate z out.

        Args:
            overlap: `Re <C X, S_k>` over half of the Fourier plane, of the mean, then of the components.
            gram: `Re <C^2, S_k S_l*>` over the same half.
        """
        # sums over the half-plane count twice in the whole plane
        linear, quadratic = 2 * overlap[0], 2 * gram[..., 0, 0]
        latent = range(len(overlap) - 1)
        system = 2 * gram[..., 1:, 1:] + torch.eye(len(latent)).to(gram)
        factor = torch.linalg.cholesky_ex(system)[0]
        covariance = torch.cholesky_inverse(factor)
        drive, mixed = 2 * overlap[1:], 2 * gram[..., 1:, 0]
        bound = (covariance @ mixed[..., None])[..., 0].movedim(-1, 0)
        free = torch.zeros_like(drive)
        constant = -factor.diagonal(dim1=-2, dim2=-1).log().sum(-1).expand(overlap.shape[1:])
        for k in latent:
            for other in latent:
                free[k].addcmul_(covariance[..., k, other].expand_as(free[k]), drive[other])
            constant = constant + 0.5 * drive[k] * free[k]
            linear.sub_(bound[k] * drive[k])
            quadratic = quadratic - mixed[..., k] * bound[k]
        # for components nearly parallel to the mean, this is a small difference of large numbers
        quadratic = torch.maximum(quadratic, MIN_ORTHOGONAL * 2 * gram[..., 0, 0])
        return cls(constant, linear, quadratic, free, bound, covariance)

    def at_one(self) -> Float32[Tensor, "*poses"]:
        """Log-likelihood at the amplitude of the map, `a = 1`."""
        return self.linear - 0.5 * self.quadratic + self.constant

    def at_best(self) -> Float32[Tensor, "*poses"]:
        """Log-likelihood at the best non-negative amplitude.

        It does not depend on the scale of the mean: a map scaled too low or too high would otherwise favour the views
        with the most, or the least, power.
        """
        return self.linear.clamp(min=0).square() / (2 * self.quadratic.clamp(min=1e-20)) + self.constant

    def latent(self) -> Float32[Tensor, "q ..."]:
        """Posterior mean of z at the amplitude of the map, `a = 1`."""
        return self.free - self.bound
