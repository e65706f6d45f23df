"""Smoothness and sparseness of maps, Eq. 8 of OPUS-DSD (docs/methods.md, "Convolutional volume")."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor

TINY = 1e-12  # under the root: the derivative of a norm is undefined at zero


@dataclass(frozen=True)
class Smoothness:
    """`tv mean_x |grad V(x)| + l1 mean_x |V(x)|` of each map: total variation and LASSO, in nats of an image.

    The mean is over the voxels, our reading of the paper's `1/N sum_x`: with N the side of the cube, the same weights
    exceed the likelihood of 48-pixel images at SNR 0.05 twenty times, and the maps vanish.

    Args:
        tv, l1: weights (the paper: 1 and 0.3).
        box: of the images. As in the paper, densities are in units in which a pixel of the images has noise of standard
            deviation 1, and gradients are per pixel of the images, whatever the side of the cube.
    """

    tv: float
    l1: float
    box: int

    def __call__(self, maps: Float32[Tensor, "b z y x"]) -> Float32[Tensor, " b"]:
        """Cost of each map, whose transform is in units of coefficients with unit noise.

        Gradients are differences of neighbouring voxels; there is none at the far faces.
        """
        pixel = self.box / maps.shape[-1]
        unit = self.box / pixel**3
        cost = maps.new_zeros(len(maps))
        if self.tv:
            here = maps[:, :-1, :-1, :-1]
            steps = (maps[:, 1:, :-1, :-1] - here, maps[:, :-1, 1:, :-1] - here, maps[:, :-1, :-1, 1:] - here)
            squared = steps[0].square() + steps[1].square() + steps[2].square()
            cost = cost + self.tv / pixel * (squared + TINY / unit**2).sqrt().flatten(1).mean(1)
        if self.l1:
            cost = cost + self.l1 * maps.abs().flatten(1).mean(1)
        return cost * unit
