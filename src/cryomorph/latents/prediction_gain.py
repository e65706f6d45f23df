"""Which latent points to believe: the linear model's, or those found anew under the trained one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from cryomorph.encoders.table import TableEncoder
from cryomorph.latents.empirical_bayes import under_landscape
from cryomorph.latents.encode import encode_by_gradient, linear_latents
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.objectives.likelihood import negative_log_likelihood
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import ParticleStore
from cryomorph.representations.base import Representation
from cryomorph.representations.linear import LinearSubspace

SURE = 2.0  # standard errors


@dataclass(frozen=True)
class Rival:
    """The linear model, where its own particles lie on their landscape, and how they are spread."""

    subspace: LinearSubspace
    prior_std: Float32[Tensor, " q"]


@dataclass(frozen=True)
class Verdict:
    """Gains of the trained model's points in nats an image, each with its standard error, by either model's maps."""

    by_trained: tuple[float, float]
    by_linear: tuple[float, float]

    @property
    def clear(self) -> bool:
        """Whether the trained model finds its own points better beyond doubt, and the linear one finds them no worse.

        A trained model that holds little of the molecule finds points good that mean nothing: the other one tells.
        """
        gain, error = self.by_trained
        doubt, margin = self.by_linear
        return gain > SURE * error and doubt > -SURE * margin


def prediction_gain(
    model: Heterogeneous,
    store: ParticleStore,
    rival: Rival,
    *,
    held: Int64[Tensor, " h"],
    half_precision: bool,
) -> Verdict:
    """By how much the trained model's own latent points predict images better than the linear model's.

    Particles that the weights never saw are located from every second coefficient, by the linear posterior and by
    Gauss-Newton under the trained model, both drawn to the landscape; both models then predict the other coefficients
    from each. So no point is judged by what it was fitted to, nor by its own model alone.

    Args:
        model: on the CPU, with a table of latent points in the linear model's coordinates.
        held: the particles that were held out, ascending.
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
    gains = []
    for judge in (model.representation, rival.subspace):
        gain = _nll(model, judge, store, held=held, z=first, kept=~used)
        gain = gain - _nll(model, judge, store, held=held, z=second, kept=~used)
        gains.append((float(gain.mean()), float(gain.std() / len(gain) ** 0.5)))
    return Verdict(*gains)


@torch.no_grad()
def _nll(
    model: Heterogeneous,
    judge: Representation,
    store: ParticleStore,
    *,
    held: Int64[Tensor, " h"],
    z: Float32[Tensor, "h q"],
    kept: Bool[Tensor, " size"],
) -> Float32[Tensor, " h"]:
    """Negative log-likelihood of the coefficients kept, of each held-out particle at its point, by the judge's maps."""
    parts = []
    for given in ParticleLoader(store, 64, subset=held):
        batch = model.placed(given, store.disk).only(kept)
        points = z[torch.searchsorted(held, batch.index)]
        slices = judge.slices(points, batch.rotation, store.disk)
        parts.append(negative_log_likelihood(batch, slices))
    return torch.cat(parts)
