"""What is measured of a model at the end of its training."""

from __future__ import annotations

from jaxtyping import Float32
from torch import Tensor

from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.models.measure import IMAGES, spread_over
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.measurements import ModelMeasurements, measure


def measure_trained(
    model: Heterogeneous,
    store: ParticleStore,
    latent: tuple[Float32[Tensor, "n zdim"], Float32[Tensor, "n zdim"]],
    *,
    consensus: Float32[Tensor, "z y x"],
) -> ModelMeasurements:
    """Measure a model whose latent means and standard deviations are given; the divergence is that of two Gaussians."""
    mean, std = latent
    loader = ParticleLoader(store, 64, subset=spread_over(len(store), IMAGES))
    seen = ((model.prepare_batch(given, store.disk), mean[given.index]) for given in loader)
    prior = model.prior_std
    kl = (0.5 * ((std / prior) ** 2 + (mean / prior) ** 2 - 1) - (std / prior).log()).mean(0)
    return measure(model.representation, seen, store, mean=mean, kl=kl.tolist(), consensus=consensus)
