"""What a finished training is asked before it is believed (METHODS 0 and 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.objectives.likelihood import best_scale
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import ParticleStore

SAMPLE = 2000
SCALES = (0.8, 1.2)
COLLAPSED = 0.05  # nats, by dimension
LEAK = 0.1  # held-out R^2
NEIGHBOURS = 30


@dataclass(frozen=True)
class Checks:
    """`scale` of the maps that fits the images best; `sign`, the correlation of the map at the mean latent point with
    the consensus; `kl` by latent coordinate, in nats; `view_r2`, how well the latent point predicts the view."""

    scale: float
    sign: float
    kl: list[float]
    view_r2: float

    def warnings(self) -> list[str]:
        """What a user should know, a sentence each."""
        found = []
        if not SCALES[0] <= self.scale <= SCALES[1]:
            found.append(
                f"maps fit the images best when multiplied by {self.scale:.2f}, expected {SCALES[0]} to {SCALES[1]}: "
                "train for longer, or look at the contrast of the particles"
            )
        if not self.sign > 0:
            found.append(
                f"the map at the mean latent point correlates with the consensus by {self.sign:.2f}, expected above 0: "
                "do not believe this model"
            )
        if self.kl and max(self.kl) < COLLAPSED:
            found.append(
                "posterior collapse: no latent coordinate tells particles apart: lower --beta, or they are alike"
            )
        if self.view_r2 > LEAK:
            found.append(
                f"the latent space predicts the viewing direction (R^2 {self.view_r2:.2f}): a part of what it shows is "
                "the view, not the molecule"
            )
        return found


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
    for given in ParticleLoader(store, 64, subset=sample):
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
