"""Whether orientations are those of a 3D alignment."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

FEWEST_VIEWS = 4  # of which a map could be made; in-plane rotations show nothing new
DECIMALS, SAMPLE = 3, 1000


def distinct_views(rotation: Float[Tensor, "n 3 3"]) -> int:
    """How many viewing directions there are; opposite ones, which show mirror images, count as one."""
    direction = rotation[:, 2].double()
    side = direction[:, 2:].sign() + (direction[:, 2:] == 0) * direction[:, :1].sign()
    return len(torch.unique((direction * torch.where(side == 0, 1, side)).round(decimals=DECIMALS) + 0.0, dim=0))


def is_3d(rotation: Float[Tensor, "n 3 3"]) -> bool:
    """Whether the particles are seen from several directions, unless there are hardly any particles."""
    if len(rotation) <= FEWEST_VIEWS:
        return True
    some = rotation[:: max(1, len(rotation) // SAMPLE)]
    return distinct_views(some) >= FEWEST_VIEWS or distinct_views(rotation) >= FEWEST_VIEWS
