"""How likely an image is at a pose under a linear subspace, its latent point integrated out (METHODS 2 and 6).

An image `X = C (a S_0 + sum_k z_k S_k) + noise` with `z ~ N(0, I)` depends on a pose through its overlaps with the
slices `S_0` of the mean and `S_k` of the components, and through their Gram matrix: a Gaussian integral of few
dimensions, at each of very many poses. With no components it is the likelihood of one map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

PARALLEL = 1e-5  # of the mean's power that is left at least beside the components'


@dataclass(frozen=True)
class Evidence:
    """What is left of the likelihood once z is integrated out, as a function of the mean's amplitude `a`.

    The logarithm is `constant + a linear - a^2 quadratic / 2`, less that of an image of noise alone; the posterior of z
    has the mean `free - a bound` and a covariance that does not depend on `a`. Poses that share a slice share
    `quadratic`, `bound` and `covariance`, whose shapes broadcast against the others.
    """

    constant: Float32[Tensor, "*poses"]
    linear: Float32[Tensor, "*poses"]
    quadratic: Float32[Tensor, "*slices"]
    free: Float32[Tensor, "q ..."]
    bound: Float32[Tensor, "q ..."]
    covariance: Float32[Tensor, "*slices q q"]

    @classmethod
    def of(cls, overlap: Float32[Tensor, "c ..."], gram: Float32[Tensor, "*slices c c"]) -> Evidence:
        """Integrate z out.

        Args:
            overlap: `Re <C X, S_k>` over half of the Fourier plane, the mean's first.
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
        # what is left of the mean beside components that are nearly its multiples is a difference of large numbers
        quadratic = torch.maximum(quadratic, PARALLEL * 2 * gram[..., 0, 0])
        return cls(constant, linear, quadratic, free, bound, covariance)

    def at_one(self) -> Float32[Tensor, "*poses"]:
        """Log-likelihood at the amplitude that the map has."""
        return self.linear - 0.5 * self.quadratic + self.constant

    def at_best(self) -> Float32[Tensor, "*poses"]:
        """Log-likelihood at the best amplitude above zero.

        The same whatever the scale of the mean: a map that is dim or bright would else be seen from where it shows
        most, or least.
        """
        return self.linear.clamp(min=0).square() / (2 * self.quadratic.clamp(min=1e-20)) + self.constant

    def latent(self) -> Float32[Tensor, "q ..."]:
        """Posterior mean of z at the amplitude that the map has."""
        return self.free - self.bound
