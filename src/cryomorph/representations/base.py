"""The interface of all representations: central slices and maps at a latent point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Complex64, Float32
from torch import Tensor, nn
from torch.func import jvp, vmap

from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.pose import cross_matrix


class Representation(nn.Module, ABC):
    """A molecule's structure as a function of the latent point. Abstract; every subclass is final."""

    zdim: int

    @abstractmethod
    def slices(
        self, z: Float32[Tensor, "b zdim"], rotation: Float32[Tensor, "b 3 3"], disk: FourierDisk
    ) -> Complex64[Tensor, "b size"]:
        """Central slices at each latent point, without CTF, in the units of the images' coefficients."""

    @abstractmethod
    def volume(self, z: Float32[Tensor, " zdim"], box: int) -> Float32[Tensor, "box box box"]:
        """The real-space map `[z, y, x]` at a latent point, in a box of the same physical size as the images'."""

    def facts(self) -> dict[str, str]:
        """What `restored` needs besides the tensors, as a model file holds it."""
        return {}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], facts: dict[str, str]) -> Representation:
        """The representation of a model file, in evaluation mode; the file may hold further tensors."""
        raise NotImplementedError(f"{cls.__name__} cannot be restored from a file")

    def penalty(self) -> Float32[Tensor, ""]:
        """Regularisation of the representation's parameters, added to the loss per Fourier coefficient."""
        return torch.zeros(())

    def tangents(
        self,
        z: Float32[Tensor, "b zdim"],
        rotation: Float32[Tensor, "b 3 3"],
        disk: FourierDisk,
        *,
        latent: bool = True,
        pose: bool = False,
    ) -> tuple[Complex64[Tensor, "b size"], Complex64[Tensor, "b size p"]]:
        """Central slices and their derivatives with respect to latent coordinates, then to the rotation.

        A rotation by the vector `w`, in radians about the image's axes, makes `R` into `exp(w) R`.

        Args:
            latent: return the `zdim` derivatives with respect to `z`.
            pose: return the 3 derivatives with respect to `w`.
        """

        def real(point: Tensor, turned: Tensor) -> Float32[Tensor, "b size 2"]:
            return torch.view_as_real(self.slices(point, turned, disk))

        columns = []
        value: Tensor | None = None
        if latent and self.zdim:
            # the rotation is a constant here, so that no tangent passes through the encoding
            steps = torch.eye(self.zdim).to(z)[:, None].expand(-1, len(z), -1)
            value, found = _along(lambda point: real(point, rotation), z, steps)
            columns.append(found)
        if pose:
            with torch.autocast(z.device.type, enabled=False):
                turns = torch.stack([cross_matrix(axis) for axis in torch.eye(3).to(z)])[:, None] @ rotation
            value, found = _along(lambda turned: real(z, turned), rotation, turns)
            columns.append(found)
        if value is None:
            value = real(z, rotation)
            return torch.view_as_complex(value), torch.view_as_complex(value.new_zeros(*value.shape[:2], 0, 2))
        return torch.view_as_complex(value), torch.view_as_complex(torch.cat(columns)).permute(1, 2, 0)

    def decoder(
        self, box: int, *, half_precision: bool = False
    ) -> Callable[[Float32[Tensor, " zdim"]], Float32[Tensor, "box box box"]]:
        """A function that does what `volume` does, for many maps in one box: what they share is computed once.

        Args:
            half_precision: allow matrix products in bfloat16.
        """
        return partial(self.volume, box=box)

    @torch.no_grad()
    def volumes(self, z: Float32[Tensor, "k zdim"], box: int) -> Float32[Tensor, "k box box box"]:
        """Maps at several latent points."""
        decode = self.decoder(box)
        return torch.stack([decode(point) for point in z])


@runtime_checkable
class OnGrid(Protocol):
    """A representation that makes a map on a grid before projecting it: further views and penalties cost little."""

    def grids(self, z: Float32[Tensor, "b zdim"]) -> Float32[Tensor, "b side side side"]:
        """Maps at latent points, in voxel values whose Fourier transform is in the images' units."""

    def views(
        self, grids: Float32[Tensor, "b side side side"], rotation: Float32[Tensor, "b v 3 3"], disk: FourierDisk
    ) -> Complex64[Tensor, "b v size"]:
        """Central slices of maps, each in several orientations."""


def _along(function: Callable[[Tensor], Tensor], point: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Value of a function at a point, and its derivatives along several directions."""

    def one(direction: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = jvp(function, (point,), (direction,))[:2]
        return value, slope

    return vmap(one, out_dims=(None, 0))(directions)  # type: ignore[arg-type]
