"""Smoothness and sparseness of maps (METHODS 4, Eq. 8)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor

TINY = 1e-12  # under the root: the slope of a length is nothing where the length is


@dataclass(frozen=True)
class Smoothness:
    """`tv mean_x |grad V(x)| + l1 mean_x |V(x)|` of each map: total variation and LASSO, in nats of an image.

    The mean is over the voxels, which is how we read the paper's `1/N sum_x`: divided by the side of the cube alone,
    the same weights outweigh the likelihood of 48-pixel images at SNR 0.05 twenty times, and no map is left.

    Args:
        tv, l1: weights (the paper: 1 and 0.3).
        box: of the images. Densities are counted in units in which a pixel of them has noise of standard deviation 1,
            as the paper's have, and gradients by that pixel, whatever the side of the cube.
    """

    tv: float
    l1: float
    box: int

    def __call__(self, maps: Float32[Tensor, "b z y x"]) -> Float32[Tensor, " b"]:
        """What each map costs, its values being those whose transform is in units of unit-noise coefficients.

        Differences are those of neighbouring voxels; a map has none beyond its last.
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
