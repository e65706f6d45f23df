"""Posteriors of latent points under a prior estimated from all particles: non-parametric empirical Bayes.

Robbins 1956; Kiefer and Wolfowitz 1956. Every particle's likelihood is a Gaussian around its best point. The prior is a
set of weighted support points, taken from the particles' own, with weights fitted by expectation-maximisation. The
posterior mean shrinks towards where the other particles are, along the directions that the image itself leaves
uncertain.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor

MAX_SUPPORT = 4096  # support points
CHUNK = 1 << 22  # distances held in memory at once
MIN_INFORMATION = 1e-3  # of an image on a coordinate, relative to the prior's precision
MIN_STD = 0.05  # of a posterior, relative to the prior: support points are not known more accurately


def empirical_bayes_posterior(
    mean: Float32[Tensor, "n q"],
    std: Float32[Tensor, "n q"],
    prior_std: Float32[Tensor, " q"],
    *,
    support: Float32[Tensor, "k q"] | None = None,
    iterations: int = 1,
    seed: int = 0,
) -> tuple[Float32[Tensor, "n q"], Float32[Tensor, "n q"]]:
    """Posterior means and standard deviations under a prior estimated from all particles.

    Args:
        mean, std: posteriors under the prior `N(0, prior_std^2)`, coordinate by coordinate; that prior is divided out.
        support: points that the prior may have weight at (default: these particles' means).
        iterations: of fitting the weights; few, because many concentrate the prior on a handful of points.
        seed: chooses the support points from a large set.
    """
    best, information = likelihood(mean, std, prior_std)
    support = mean if support is None else support
    order = torch.randperm(len(support), generator=torch.Generator().manual_seed(seed))[:MAX_SUPPORT]
    support = support[order.sort().values]
    weight = torch.full((len(support),), 1 / len(support))
    rows = max(1, CHUNK // len(support))
    for _ in range(iterations):
        total = torch.zeros_like(weight)
        for chunk in torch.arange(len(mean)).split(rows):
            total += membership(best[chunk], information[chunk], support, weight=weight).sum(0)
        weight = (total / len(mean)).clamp(min=1e-12)
    found, spread = torch.empty_like(mean), torch.empty_like(std)
    for chunk in torch.arange(len(mean)).split(rows):
        share = membership(best[chunk], information[chunk], support, weight=weight)
        found[chunk] = share @ support
        spread[chunk] = (share @ support**2 - found[chunk] ** 2).clamp(min=0).sqrt()
    return found, torch.maximum(spread, MIN_STD * prior_std)


def likelihood(
    mean: Float32[Tensor, "n q"], std: Float32[Tensor, "n q"], prior_std: Float32[Tensor, " q"]
) -> tuple[Float32[Tensor, "n q"], Float32[Tensor, "n q"]]:
    """Maximum-likelihood points and their inverse variances: the prior divided out of the posteriors."""
    precision = prior_std**-2
    information = (std**-2 - precision).clamp(min=MIN_INFORMATION * precision)
    return mean * (information + precision) / information, information


def membership(
    best: Float[Tensor, "b q"],
    information: Float[Tensor, "b q"],
    support: Float[Tensor, "k q"],
    *,
    weight: Float[Tensor, " k"],
) -> Float[Tensor, "b k"]:
    """Probability of each support point for each particle: `w_k exp(-|best - support_k|^2 / 2)`, normalised."""
    # sum_q information (best - support)^2, without the term that all support points share
    distance = information @ (support**2).T - 2 * (information * best) @ support.T
    return torch.softmax(weight.log() - 0.5 * distance, dim=1)
