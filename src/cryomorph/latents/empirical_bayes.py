"""Latent points under a prior learned from all of them: where particles lie tells where a noisy one may lie.

Every particle's likelihood is a Gaussian about its own best point. The prior is a set of support points, the particles'
own, with weights fitted by expectation-maximisation (the non-parametric empirical Bayes of Robbins 1956, Kiefer and
Wolfowitz 1956). The posterior mean then lies on the landscape: it is drawn along directions in which the image says
little and the others say much.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor

SUPPORT = 4096
CHUNK = 1 << 22  # distances at a time
LEAST_INFORMATION = 1e-3  # of the prior's precision: below it an image says nothing of a coordinate
LEAST_SPREAD = 0.05  # of the prior: support points are not known better than that


def under_landscape(
    mean: Float32[Tensor, "n q"],
    std: Float32[Tensor, "n q"],
    prior_std: Float32[Tensor, " q"],
    *,
    support: Float32[Tensor, "k q"] | None = None,
    iterations: int = 1,
    seed: int = 0,
) -> tuple[Float32[Tensor, "n q"], Float32[Tensor, "n q"]]:
    """Posterior means and standard deviations under the landscape's own density.

    Args:
        mean, std: posteriors under the prior `N(0, prior_std^2)`, coordinate by coordinate; that prior is taken out.
        support: points of the landscape (default: these particles' means).
        iterations: of the weights; few, since many make the density a handful of points.
        seed: chooses the support points of a large set.
    """
    best, information = likelihood(mean, std, prior_std)
    support = mean if support is None else support
    order = torch.randperm(len(support), generator=torch.Generator().manual_seed(seed))[:SUPPORT]
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
    return found, torch.maximum(spread, LEAST_SPREAD * prior_std)


def likelihood(
    mean: Float32[Tensor, "n q"], std: Float32[Tensor, "n q"], prior_std: Float32[Tensor, " q"]
) -> tuple[Float32[Tensor, "n q"], Float32[Tensor, "n q"]]:
    """What the images alone say: most likely points and their inverse variances, the prior taken out of posteriors."""
    precision = prior_std**-2
    information = (std**-2 - precision).clamp(min=LEAST_INFORMATION * precision)
    return mean * (information + precision) / information, information


def membership(
    best: Float[Tensor, "b q"],
    information: Float[Tensor, "b q"],
    support: Float[Tensor, "k q"],
    *,
    weight: Float[Tensor, " k"],
) -> Float[Tensor, "b k"]:
    """Probability of each support point for each particle: `w_k exp(-|best - support_k|^2 / 2)`, normalised."""
    # sum_q information (best - support)^2, without the term that is the same for all support points
    distance = information @ (support**2).T - 2 * (information * best) @ support.T
    return torch.softmax(weight.log() - 0.5 * distance, dim=1)
