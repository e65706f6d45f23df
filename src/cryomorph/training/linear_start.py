"""Where particles lie before a model is trained: the result of the linear stage, and latent points taken from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.latents.empirical_bayes import empirical_bayes_posterior, likelihood
from cryomorph.latents.isomap import curve_coordinate
from cryomorph.representations.linear import LinearSubspace
from cryomorph.training.distillation import DistillationTargets

MISSING_STD = 0.1  # of a latent coordinate that the linear model does not have, in units of its prior


@dataclass(frozen=True)
class LinearStart:
    """A linear subspace, and the posterior of each particle's coordinates in it."""

    subspace: LinearSubspace
    mean: Float32[Tensor, "n q"]
    std: Float32[Tensor, "n q"]

    @property
    def prior_std(self) -> Float32[Tensor, " q"]:
        """Standard deviation of each coordinate over the particles, their uncertainty included."""
        return (self.mean.var(0) + self.std.square().mean(0)).sqrt()

    def on_landscape(self, seed: int) -> LinearStart:
        """The same particles, their posteriors under the density of all of them."""
        if not self.mean.shape[1]:
            return self
        mean, std = empirical_bayes_posterior(self.mean, self.std, self.prior_std, seed=seed)
        return replace(self, mean=mean, std=std)


def first_targets(start: LinearStart, zdim: int, *, seed: int) -> DistillationTargets:
    """Latent points of the particles in a latent space of `zdim` dimensions.

    They are the coordinates of the linear model if it has as many; padded with zeros or cut off if not; and for a
    single dimension the position along the curve that the particles form.
    """
    landscape = start.on_landscape(seed)
    if start.mean.shape[1] == zdim:
        return DistillationTargets(landscape.mean, landscape.std, landscape.mean, same_space=True)
    if start.mean.shape[1] < zdim:
        missing = zdim - start.mean.shape[1]
        mean = torch.nn.functional.pad(landscape.mean, (0, missing))
        std = torch.nn.functional.pad(landscape.std, (0, missing), value=MISSING_STD)
        return DistillationTargets(mean, std, landscape.mean, same_space=False)
    if zdim == 1:
        along, spread = curve_coordinate(*likelihood(start.mean, start.std, start.prior_std), seed=seed)
        return DistillationTargets(along[:, None], spread[:, None], landscape.mean, same_space=False)
    return DistillationTargets(landscape.mean[:, :zdim], landscape.std[:, :zdim], landscape.mean, same_space=False)
