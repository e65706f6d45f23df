"""The linear subspace: `V_z = mean + sum_k z_k component_k` (METHODS 2)."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Complex64, Float32
from torch import Tensor

from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.slicing import locate_slices, padded_grid
from cryomorph.representations.base import Representation
from cryomorph.volumes.grid import resize


@final
class LinearSubspace(Representation):
    """A mean map and `zdim` eigen-volumes, band-limited: their box is the band's diameter, not the images' box.

    Args:
        maps: (zdim + 1, band, band, band): the mean, then the components, in voxel values whose transform is in the
            units of the images' coefficients.
    """

    def __init__(self, maps: Float32[Tensor, "c z y x"]) -> None:
        super().__init__()
        self.maps: Tensor
        self.register_buffer("maps", maps)
        self.zdim = len(maps) - 1

    @property
    def band(self) -> int:
        """Diameter of the band in Fourier pixels: the maps' box."""
        return int(self.maps.shape[-1])

    def slices(
        self, z: Float32[Tensor, "b zdim"], rotation: Float32[Tensor, "b 3 3"], disk: FourierDisk
    ) -> Complex64[Tensor, "b size"]:
        """Central slices at each latent point; zero beyond the band."""
        grid = padded_grid(self.band)
        count = disk.count(self.band / 2)
        parts = locate_slices(grid, disk.frequency[:count], rotation).extract(grid.from_volumes(self.maps))
        weight = torch.cat([z.new_ones(len(z), 1), z], dim=1).to(parts.dtype)
        inside = torch.einsum("bmc,bc->bm", parts, weight)
        return torch.nn.functional.pad(inside, (0, disk.size - count))

    def volume(self, z: Float32[Tensor, " zdim"], box: int) -> Float32[Tensor, "box box box"]:
        """The map at a latent point; a larger box than the band's interpolates, a smaller one crops the band."""
        combined = self.maps[0] + torch.tensordot(z, self.maps[1:], dims=1)
        return rebox(combined, box)


def rebox(maps: Float32[Tensor, "*n z y x"], box: int) -> Float32[Tensor, "*n box box box"]:
    """Resample maps to another box of the same extent, so that their transforms keep their values."""
    return resize(maps, box) * (maps.shape[-1] / box) ** 3
