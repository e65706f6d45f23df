"""The Gaussian likelihood of images in the Fourier half-plane (docs/methods.md, "Likelihood")."""

from __future__ import annotations

import torch
from jaxtyping import Complex64, Float32
from torch import Tensor

from cryomorph.particles.store import Batch


def negative_log_likelihood(batch: Batch, slices: Complex64[Tensor, "b m"]) -> Float32[Tensor, " b"]:
    """`sum_half |X - C S|^2` of each image, for noise of variance 1 per complex coefficient, without constants.

    Half of cryoDRGN's squared Hartley residual, summed over the whole disk.
    """
    return torch.view_as_real(batch.image - batch.ctf * slices).square().flatten(1).sum(1)


def best_scale(batch: Batch, slices: Complex64[Tensor, "b m"]) -> tuple[Float32[Tensor, " b"], Float32[Tensor, " b"]]:
    """Numerator and denominator of each image's least-squares scale of its slice, `<X, CV>` and `<CV, CV>`."""
    model = torch.view_as_real(batch.ctf * slices).flatten(1)
    return (model * torch.view_as_real(batch.image).flatten(1)).sum(1), model.square().sum(1)
