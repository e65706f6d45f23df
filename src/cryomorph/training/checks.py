"""What a finished training is asked before it is believed (METHODS 0 and 3)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.objectives.likelihood import best_scale
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.checks import Checks

SAMPLE = 2000
IMAGES = 400  # of the sample: enough for one scale of all maps
NEIGHBOURS = 30


@torch.no_grad()
def check(
    model: Heterogeneous,
    store: ParticleStore,
    latent: tuple[Float32[Tensor, "n zdim"], Float32[Tensor, "n zdim"]],
    *,
    consensus: Float32[Tensor, "z y x"],
) -> Checks:
    """Ask a model on the CPU about a sample of its particles, whose latent means and standard deviations are given."""
    mean, std = latent
    sample = torch.unique(torch.linspace(0, len(store) - 1, min(SAMPLE, len(store))).long())
    overlap = power = 0.0
    for given in ParticleLoader(store, 64, subset=sample[:: -(-len(sample) // IMAGES)]):
        batch = model.placed(given, store.disk)
        slices = model.representation.slices(mean[batch.index], batch.rotation, store.disk)
        above, below = best_scale(batch, slices)
        overlap, power = overlap + float(above.sum()), power + float(below.sum())
    centre = model.representation.volume(mean.mean(0), store.box)
    sign = torch.corrcoef(torch.stack([centre.flatten(), consensus.flatten()]))[0, 1]
    prior = model.prior_std
    kl = (0.5 * ((std / prior) ** 2 + (mean / prior) ** 2 - 1) - (std / prior).log()).mean(0)
    views = store.require_pose().rotation[sample, 2]
    return Checks(overlap / max(power, 1e-30), float(sign), kl.tolist(), view_r2(mean[sample].numpy(), views.numpy()))


def view_r2(latent: Float32[np.ndarray, "n zdim"], view: Float32[np.ndarray, "n 3"]) -> float:
    """R^2 on a held-out half of the viewing direction as predicted from the latent point by its neighbours."""
    if latent.shape[1] == 0 or len(latent) < 4 * NEIGHBOURS:
        return 0.0
    from sklearn.neighbors import KNeighborsRegressor

    order = np.random.default_rng(0).permutation(len(latent))
    fitted, asked = np.array_split(order, 2)
    predicted = KNeighborsRegressor(NEIGHBOURS).fit(latent[fitted], view[fitted]).predict(latent[asked])
    left = ((predicted - view[asked]) ** 2).sum()
    return float(1 - left / ((view[asked] - view[asked].mean(0)) ** 2).sum())
