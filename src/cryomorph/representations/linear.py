"""The linear subspace: `V_z = mean + sum_k z_k component_k` (docs/methods.md, "Linear subspace")."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import final

import torch
from jaxtyping import Complex64, Float32
from torch import Tensor

from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.pose import cross_matrix
from cryomorph.physics.slicing import Slices, locate_slices, padded_grid
from cryomorph.representations.base import Representation
from cryomorph.volumes.grid import rebox


@final
class LinearSubspace(Representation):
    """A mean map and `zdim` components, in a box of twice their radius in Fourier space, not in the images' box.

    Args:
        maps: (zdim + 1, box, box, box): the mean, then the components, in voxel values whose Fourier transform is in
            the units of the images' coefficients.
    """

    def __init__(self, maps: Float32[Tensor, "c z y x"]) -> None:
        super().__init__()
        self.maps: Tensor
        self.register_buffer("maps", maps)
        self.zdim = len(maps) - 1
        self._transform: Tensor | None
        self._moments: Tensor | None
        self.register_buffer("_transform", None, persistent=False)
        self.register_buffer("_moments", None, persistent=False)
        self.register_load_state_dict_post_hook(LinearSubspace._clear_caches)

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], facts: dict[str, str]) -> LinearSubspace:
        """The subspace of a model file."""
        return cls(tensors["maps"])

    @property
    def box(self) -> int:
        """The maps' box: twice their radius in Fourier pixels."""
        return int(self.maps.shape[-1])

    def slices(
        self, z: Float32[Tensor, "b zdim"], rotation: Float32[Tensor, "b 3 3"], disk: FourierDisk
    ) -> Complex64[Tensor, "b size"]:
        """Central slices at each latent point; 0 beyond the maps' Nyquist."""
        parts = self._located(rotation, disk).extract(self.transform)
        inside = torch.einsum("bmc,bc->bm", parts, _weight(z).to(parts.dtype))
        return torch.nn.functional.pad(inside, (0, disk.size - inside.shape[1]))

    def tangents(
        self,
        z: Float32[Tensor, "b zdim"],
        rotation: Float32[Tensor, "b 3 3"],
        disk: FourierDisk,
        *,
        latent: bool = True,
        pose: bool = False,
    ) -> tuple[Complex64[Tensor, "b size"], Complex64[Tensor, "b size p"]]:
        """As `Representation.tangents`, in closed form: a transform's gradient is the transform of `-2 pi i r V(r)`."""
        located = self._located(rotation, disk)
        parts = located.extract(self.transform)
        weight = _weight(z).to(parts.dtype)
        columns = [torch.einsum("bmc,bc->bm", parts, weight)[..., None]]
        if latent:
            columns.append(parts[..., 1:])
        if pose:
            slope = located.extract(self.moments).unflatten(2, (3, -1)) * (-2j * torch.pi / self.box)
            slope = torch.einsum("bmxc,bc->bmx", slope, weight)
            with torch.autocast(z.device.type, enabled=False):
                turns = torch.stack([cross_matrix(axis) for axis in torch.eye(3).to(z)])
                rows = (turns @ rotation[:, None])[:, :, :2]
                moved = torch.einsum("mk,bakx->bmax", disk.frequency[: slope.shape[1]].to(z), rows)
            columns.append(torch.einsum("bmx,bmax->bma", slope, moved.to(slope.dtype)))
        inside = torch.cat(columns, dim=2)
        whole = torch.nn.functional.pad(inside, (0, 0, 0, disk.size - inside.shape[1]))
        return whole[..., 0], whole[..., 1:]

    @property
    def transform(self) -> Complex64[Tensor, "rows c"]:
        """The maps on the padded Fourier grid, cached."""
        if self._transform is None:
            self._transform = padded_grid(self.box).from_volumes(self.maps)
        return self._transform

    @property
    def moments(self) -> Complex64[Tensor, "rows columns"]:
        """Transforms of the maps times x, then times y, then times z (voxels), cached."""
        if self._moments is None:
            line = (torch.arange(self.box) - self.box // 2).to(self.maps)
            moments = torch.cat([self.maps * r for r in (line, line[:, None], line[:, None, None])])
            self._moments = padded_grid(self.box).from_volumes(moments)
        return self._moments

    def _clear_caches(self, _: object) -> None:
        """Drop the caches after a state was loaded."""
        self._transform = self._moments = None

    def _located(self, rotation: Float32[Tensor, "b 3 3"], disk: FourierDisk) -> Slices:
        count = disk.count(self.box / 2)
        return locate_slices(padded_grid(self.box), disk.frequency[:count], rotation)

    def volume(self, z: Float32[Tensor, " zdim"], box: int) -> Float32[Tensor, "box box box"]:
        """The map at a latent point; interpolated in a larger box than the maps', low-passed in a smaller one."""
        combined = self.maps[0] + torch.tensordot(z, self.maps[1:], dims=1)
        return combined if box == self.box else rebox(combined, box)

    def decoder(
        self, box: int, *, half_precision: bool = False
    ) -> Callable[[Float32[Tensor, " zdim"]], Float32[Tensor, "box box box"]]:
        """`volume` for many maps in one box: the mean and the components are resampled once."""
        return partial(LinearSubspace(rebox(self.maps, box)).volume, box=box)


def _weight(z: Float32[Tensor, "b zdim"]) -> Float32[Tensor, "b c"]:
    """Weight of each map at a latent point: 1 for the mean, then z."""
    return torch.cat([z.new_ones(len(z), 1), z], dim=1)
