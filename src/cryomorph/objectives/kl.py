"""Divergence of a particle's posterior from the prior."""

from __future__ import annotations

from jaxtyping import Float32
from torch import Tensor


def kl_divergence(
    mean: Float32[Tensor, "b zdim"], log_variance: Float32[Tensor, "b zdim"], prior_std: Float32[Tensor, " zdim"]
) -> Float32[Tensor, "b zdim"]:
    """`KL(N(mean, variance) || N(0, prior_std^2))` of each coordinate, in nats."""
    log_ratio = log_variance - 2 * prior_std.log()
    return 0.5 * (log_ratio.exp() + (mean / prior_std) ** 2 - 1 - log_ratio)
