"""What a finished training is asked before it is believed (METHODS 0 and 3)."""

from __future__ import annotations

from jaxtyping import Float32
from torch import Tensor

from cryomorph.models.checks import IMAGES, SAMPLE, scale_of_maps, sign_of_maps, spread_over, view_r2
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.checks import Checks


def check(
    model: Heterogeneous,
    store: ParticleStore,
    latent: tuple[Float32[Tensor, "n zdim"], Float32[Tensor, "n zdim"]],
    *,
    consensus: Float32[Tensor, "z y x"],
) -> Checks:
    """Ask a model on the CPU about a sample of its particles, whose latent means and standard deviations are given."""
    mean, std = latent
    loader = ParticleLoader(store, 64, subset=spread_over(len(store), IMAGES))
    seen = ((model.placed(given, store.disk), mean[given.index]) for given in loader)
    prior = model.prior_std
    kl = (0.5 * ((std / prior) ** 2 + (mean / prior) ** 2 - 1) - (std / prior).log()).mean(0)
    sample = spread_over(len(store), SAMPLE)
    views = store.require_pose().rotation[sample, 2]
    return Checks(
        scale_of_maps(model.representation, seen, disk=store.disk),
        sign_of_maps(model.representation, mean, consensus),
        kl.tolist(),
        view_r2(mean[sample].numpy(), views.numpy()),
    )
