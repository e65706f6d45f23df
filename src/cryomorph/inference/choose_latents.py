"""Which latent points to believe: the linear model's, or those found anew under the trained one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.encoders.table import TableEncoder
from cryomorph.inference.encode import encode_by_gradient, linear_latents
from cryomorph.inference.landscape_prior import under_landscape
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.objectives.likelihood import negative_log_likelihood
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import ParticleStore
from cryomorph.representations.linear import LinearSubspace


@dataclass(frozen=True)
class Rival:
    """The linear model, where its own particles lie on their landscape, and how they are spread."""

    subspace: LinearSubspace
    prior_std: Float32[Tensor, " q"]


def prediction_gain(
    model: Heterogeneous,
    store: ParticleStore,
    rival: Rival,
    *,
    held: Int64[Tensor, " h"],
    half_precision: bool,
) -> tuple[float, float]:
    """By how much the trained model's own latent points predict images better than the linear model's, and its error.

    Particles that the weights never saw are located from every second coefficient, by the linear posterior and by
    Gauss-Newton under the trained model, both drawn to the landscape; the trained model then predicts the other
    coefficients from each. So neither is judged by what it was fitted to.

    Args:
        model: on the CPU, with a table of latent points in the linear model's coordinates.
        held: the particles that were held out, ascending.

    Returns:
        mean difference of the negative log-likelihoods, in nats an image (positive: the trained model's points are
        better), and its standard error.
    """
    table = model.encoder
    if not isinstance(table, TableEncoder):
        raise ValueError("only a table's latent points are in the linear model's coordinates")
    used = torch.arange(store.disk.size) % 2 == 0
    landscape = table.mean
    linear = linear_latents(store, rival.subspace, rival.prior_std, whitening=model.whitening, subset=held, kept=used)
    first, _ = under_landscape(*linear, rival.prior_std, support=landscape)
    start = landscape.clone()
    start[held] = first
    located = Heterogeneous(
        model.representation,
        TableEncoder(start, torch.ones_like(start)),
        prior_std=model.prior_std,
        whitening=model.whitening,
        poses=model.poses,
    )
    mean, std = encode_by_gradient(located, store, held, half_precision=half_precision, kept=used)
    second, _ = under_landscape(mean[held], std[held], model.prior_std, support=landscape)
    gain = _nll(model, store, held, first, ~used) - _nll(model, store, held, second, ~used)
    return float(gain.mean()), float(gain.std() / len(gain) ** 0.5)


@torch.no_grad()
def _nll(
    model: Heterogeneous, store: ParticleStore, held: Int64[Tensor, " h"], z: Float32[Tensor, "h q"], kept: Tensor
) -> Float32[Tensor, " h"]:
    """Negative log-likelihood of the coefficients kept, of each held-out particle at its point."""
    parts = []
    for given in ParticleLoader(store, 64, subset=held):
        batch = model.placed(given, store.disk).only(kept)
        points = z[torch.searchsorted(held, batch.index)]
        slices = model.representation.slices(points, batch.rotation, store.disk)
        parts.append(negative_log_likelihood(batch, slices))
    return torch.cat(parts)
