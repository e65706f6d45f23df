"""The convolutional volume of OPUS-DSD: a network from a latent point to a cube of voxels.

See docs/methods.md, "Convolutional volume".
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import final

import torch
from jaxtyping import Complex64, Float32
from torch import Tensor
from torch.func import jvp, vmap

from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.pose import cross_matrix
from cryomorph.physics.projection import project_volumes
from cryomorph.representations.base import Representation
from cryomorph.representations.conv_network import ConvNetwork, ConvShape
from cryomorph.volumes.grid import rebox
from cryomorph.volumes.masks import spherical_mask

VOXELS = 1 << 24  # of padded grids at once, without gradients
MASK_EDGE = 0.12  # width of the mask's soft edge, as a fraction of half the cube


@final
class ConvVolume(Representation):
    """`V_z = mask (base + unit network(z / scale))` on a cube of the physical size of the images' box.

    Args:
        shape: sizes.
        base: (side, side, side) map that the network adds to (default: 0).
        unit: scale of the network's output, in voxel values whose Fourier transform is in the images' units.
        latent_scale: (zdim,) divisor of each latent coordinate before it enters the network.
    """

    def __init__(
        self,
        shape: ConvShape,
        base: Float32[Tensor, "z y x"] | None = None,
        *,
        unit: float = 1.0,
        latent_scale: Float32[Tensor, " zdim"] | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.zdim = shape.zdim
        self.base: Tensor
        self.unit: Tensor
        self.latent_scale: Tensor
        self.mask: Tensor
        side = shape.side
        self.register_buffer("base", torch.zeros(side, side, side) if base is None else base.clone())
        self.register_buffer("unit", torch.tensor(float(unit)))
        self.register_buffer("latent_scale", torch.ones(shape.zdim) if latent_scale is None else latent_scale.clone())
        sphere = spherical_mask(side, (1 - MASK_EDGE) * side / 2, MASK_EDGE * side / 2)
        self.register_buffer("mask", sphere, persistent=False)
        self.network = ConvNetwork(shape)

    def facts(self) -> dict[str, str]:
        """The shape, as JSON."""
        return {"shape": json.dumps(asdict(self.shape))}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], facts: dict[str, str]) -> ConvVolume:
        """The volume of a model file."""
        model = cls(ConvShape(**json.loads(facts["shape"])))
        model.load_state_dict({name: tensors[name] for name in model.state_dict()})
        return model.eval()

    def grids(self, z: Float32[Tensor, "b zdim"]) -> Float32[Tensor, "b side side side"]:
        """Masked cubes at latent points."""
        output = self.network(z / self.latent_scale).float()
        return self.mask * (self.base + self.unit * output)

    def views(
        self, grids: Float32[Tensor, "b side side side"], rotation: Float32[Tensor, "b v 3 3"], disk: FourierDisk
    ) -> Complex64[Tensor, "b v size"]:
        """Central slices of cubes, each in several orientations with a single Fourier transform."""
        return project_volumes(grids[:, None], rotation, disk)[..., 0]

    def slices(
        self, z: Float32[Tensor, "b zdim"], rotation: Float32[Tensor, "b 3 3"], disk: FourierDisk
    ) -> Complex64[Tensor, "b size"]:
        """Central slices at each latent point; 0 beyond the cube's Nyquist."""
        if torch.is_grad_enabled():
            return self.views(self.grids(z), rotation[:, None], disk)[:, 0]
        rows = max(1, VOXELS // (2 * self.shape.side) ** 3)
        parts = zip(z.split(rows), rotation.split(rows), strict=True)
        return torch.cat([self.views(self.grids(point), turn[:, None], disk)[:, 0] for point, turn in parts])

    def tangents(
        self,
        z: Float32[Tensor, "b zdim"],
        rotation: Float32[Tensor, "b 3 3"],
        disk: FourierDisk,
        *,
        latent: bool = True,
        pose: bool = False,
    ) -> tuple[Complex64[Tensor, "b size"], Complex64[Tensor, "b size p"]]:
        """As `Representation.tangents`: slices of the cubes' derivatives, and of `-2 pi i r V(r)` for the pose."""
        side = self.shape.side
        maps = [self.grids(z)[:, None]]
        if latent and self.zdim:
            steps = torch.eye(self.zdim).to(z)[:, None].expand(-1, len(z), -1)
            maps.append(vmap(lambda step: jvp(self.grids, (z,), (step,))[1], out_dims=1)(steps))
        if pose:
            line = (torch.arange(side) - side // 2).to(z)
            maps.append(torch.stack([maps[0][:, 0] * r for r in (line, line[:, None], line[:, None, None])], dim=1))
        found = project_volumes(torch.cat(maps, dim=1), rotation[:, None], disk)[:, 0]
        columns = [found[..., 1 : 1 + self.zdim * latent]]
        if pose:
            slope = found[..., -3:] * (-2j * torch.pi / side)
            turns = torch.stack([cross_matrix(axis) for axis in torch.eye(3).to(z)])
            rows = (turns @ rotation[:, None])[:, :, :2]
            moved = torch.einsum("mk,bakx->bmax", disk.frequency.to(z), rows)
            columns.append(torch.einsum("bmx,bmax->bma", slope, moved.to(slope.dtype)))
        return found[..., 0], torch.cat(columns, dim=2)

    @torch.no_grad()
    def volume(self, z: Float32[Tensor, " zdim"], box: int) -> Float32[Tensor, "box box box"]:
        """The map at a latent point; interpolated in a box larger than the cube's, low-passed in a smaller one."""
        return rebox(self.grids(z[None])[0], box)
