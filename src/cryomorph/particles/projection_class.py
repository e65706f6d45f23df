"""Projection classes: particles that show the molecule from about the same direction (HEALPix, Gorski et al. 2005)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

CLASSES = (12, 48, 192)


def projection_classes(rotation: Float[Tensor, "n 3 3"], count: int) -> Int64[Tensor, " n"]:
    """The pixel, 0 to `count` - 1, of each particle's viewing direction: the volume's direction along the beam.

    It depends on RELION's rot and tilt and not on psi.

    Args:
        count: of pixels on the sphere, all of equal area: 12, 48 or 192.
    """
    import healpix

    nside = round((count / 12) ** 0.5)
    x, y, z = rotation[:, 2].double().cpu().numpy().T
    return torch.from_numpy(np.asarray(healpix.vec2pix(nside, x, y, z), dtype=np.int64))
