"""What every representation offers: central slices and maps at a latent point."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Complex64, Float32
from torch import Tensor, nn

from cryomorph.physics.disk import FourierDisk


class Representation(nn.Module, ABC):
    """A molecule that depends on a latent point. Abstract; every subclass is final."""

    zdim: int

    @abstractmethod
    def slices(
        self, z: Float32[Tensor, "b zdim"], rotation: Float32[Tensor, "b 3 3"], disk: FourierDisk
    ) -> Complex64[Tensor, "b size"]:
        """Central slices at each latent point, without CTF, in the units of the images' coefficients."""

    @abstractmethod
    def volume(self, z: Float32[Tensor, " zdim"], box: int) -> Float32[Tensor, "box box box"]:
        """The real-space map `[z, y, x]` at a latent point, in a box of the same extent as the images'."""

    @torch.no_grad()
    def volumes(self, z: Float32[Tensor, "k zdim"], box: int) -> Float32[Tensor, "k box box box"]:
        """Maps at several latent points."""
        return torch.stack([self.volume(point, box) for point in z])
