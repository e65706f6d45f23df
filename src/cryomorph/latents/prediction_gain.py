"""Which latent points to keep: the linear model's, or those re-estimated under the trained model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from cryomorph.encoders.table import TableEncoder
from cryomorph.latents.empirical_bayes import empirical_bayes_posterior
from cryomorph.latents.encode import encode_by_gradient, linear_latents
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.objectives.likelihood import negative_log_likelihood
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import ParticleStore
from cryomorph.representations.base import Representation
from cryomorph.representations.linear import LinearSubspace

SIGNIFICANT = 2.0  # standard errors


@dataclass(frozen=True)
class LinearReference:
    """The linear model to compare with, and the standard deviation of its particles' coordinates."""

    subspace: LinearSubspace
    prior_std: Float32[Tensor, " q"]


@dataclass(frozen=True)
class PredictionGain:
    """Gain of the trained model's latent points over the linear model's, in nats per image, with its standard error.

    `by_trained` is measured with the maps of the trained model, `by_linear` with those of the linear model.
    """

    by_trained: tuple[float, float]
    by_linear: tuple[float, float]

    @property
    def is_significant(self) -> bool:
        """Whether the gain is significant by the trained model's maps, without a significant loss by the linear ones.

        A trained model that has learned little of the molecule can prefer meaningless points; the linear model's maps
        then contradict it.
        """
        gain, error = self.by_trained
        check, check_error = self.by_linear
        return gain > SIGNIFICANT * error and check > -SIGNIFICANT * check_error


def prediction_gain(
    model: Heterogeneous,
    store: ParticleStore,
    reference: LinearReference,
    *,
    held: Int64[Tensor, " h"],
    half_precision: bool,
) -> PredictionGain:
    """By how much the trained model's own latent points predict held-out images better than the linear model's.

    Latent points of held-out particles are estimated from every second coefficient, by the linear posterior and by
    Gauss-Newton under the trained model, both with the empirical Bayes prior; both models then predict the other
    coefficients from each. So no point is evaluated on the data that it was fitted to, nor by its own model only.

    Args:
        model: on the CPU, with a table of latent points in the linear model's coordinates.
        held: the particles that were held out, ascending.
    """
    table = model.encoder
    if not isinstance(table, TableEncoder):
        raise ValueError("expected a model whose latent points are a table, in the linear model's coordinates")
    used = torch.arange(store.disk.size) % 2 == 0
    support = table.mean
    linear = linear_latents(
        store, reference.subspace, reference.prior_std, whitening=model.whitening, subset=held, kept=used
    )
    first, _ = empirical_bayes_posterior(*linear, reference.prior_std, support=support)
    start = support.clone()
    start[held] = first
    initial = Heterogeneous(
        model.representation,
        TableEncoder(start, torch.ones_like(start)),
        prior_std=model.prior_std,
        whitening=model.whitening,
        poses=model.poses,
    )
    mean, std = encode_by_gradient(initial, store, held, half_precision=half_precision, kept=used)
    second, _ = empirical_bayes_posterior(mean[held], std[held], model.prior_std, support=support)
    gains = []
    for maps in (model.representation, reference.subspace):
        gain = _nll(model, maps, store, held=held, z=first, kept=~used)
        gain = gain - _nll(model, maps, store, held=held, z=second, kept=~used)
        gains.append((float(gain.mean()), float(gain.std() / len(gain) ** 0.5)))
    return PredictionGain(*gains)


@torch.no_grad()
def _nll(
    model: Heterogeneous,
    maps: Representation,
    store: ParticleStore,
    *,
    held: Int64[Tensor, " h"],
    z: Float32[Tensor, "h q"],
    kept: Bool[Tensor, " size"],
) -> Float32[Tensor, " h"]:
    """Negative log-likelihood of some coefficients of each held-out particle at its latent point, by the given maps."""
    parts = []
    for given in ParticleLoader(store, 64, subset=held):
        batch = model.prepare_batch(given, store.disk).only(kept)
        points = z[torch.searchsorted(held, batch.index)]
        slices = maps.slices(points, batch.rotation, store.disk)
        parts.append(negative_log_likelihood(batch, slices))
    return torch.cat(parts)
