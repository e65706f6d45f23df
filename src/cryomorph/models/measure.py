"""Measurements of a model: scale and sign of its maps, and what its latent space knows of the view.

docs/methods.md, "Likelihood" and "Neural field".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.objectives.likelihood import best_scale
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import FourierDisk
from cryomorph.representations.base import Representation

VIEWS = 2000  # particles whose viewing directions are predicted
IMAGES = 400  # enough for one scale of all maps


@torch.no_grad()
def scale_of_maps(
    model: Representation,
    seen: Iterable[tuple[Batch, Float32[Tensor, "b zdim"]]],
    *,
    disk: FourierDisk,
    total: Callable[[Tensor], Tensor] = lambda value: value,
) -> float:
    """The factor by which the maps fit whitened images best: 1 for a correct model.

    Args:
        seen: images with their latent points.
        total: sums a tensor over all processes.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    for batch, z in seen:
        parts = best_scale(batch, model.slices(z, batch.rotation, disk))
        sums += torch.stack([part.sum() for part in parts]).cpu()
    overlap, power = total(sums).tolist()
    return float(overlap / max(power, 1e-30))


@torch.no_grad()
def sign_of_maps(
    model: Representation, mean: Float32[Tensor, "n zdim"], consensus: Float32[Tensor, "box box box"]
) -> float:
    """Correlation of the map at the mean latent point with the consensus."""
    centre = model.volume(mean.mean(0), consensus.shape[-1])
    return float(torch.corrcoef(torch.stack([centre.flatten(), consensus.flatten()]))[0, 1])


def spread_over(n: int, most: int) -> Tensor:
    """At most `most` numbers from 0 to `n - 1`, evenly spaced."""
    return torch.unique(torch.linspace(0, n - 1, min(most, n)).long())
