"""The neural field of cryoDRGN: an MLP from a point of Fourier space and a latent point to a value (METHODS 3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import final

import torch
from jaxtyping import Complex64, Float, Float32
from torch import Tensor
from torch.nn import functional

from cryomorph.physics.disk import FourierDisk
from cryomorph.representations.base import Representation
from cryomorph.representations.field_lattice import FieldLattice
from cryomorph.representations.field_network import HALF_SPACE, FieldNetwork, FieldShape, half_ball, half_ball_map

POINTS = 1 << 16


@final
class NeuralField(Representation):
    """`V_z(k)`: positional encoding of `k`, plus a linear term of `z`, through an MLP to (re, im).

    Coefficients at `k` outside the half space are the conjugates of those at `-k`; outside the ball of Nyquist they
    are zero. The output is multiplied by the molecule's amplitude in its shell, so that the network's own is near 1.

    Args:
        shape: size of the network.
        frequencies: (3, f) matrix of the encoding, see `frequency_matrix`.
        amplitude: (box/2 + 1,) amplitude of each shell; ones leave the output as it is.
        latent_scale: (zdim,) what a latent coordinate is divided by before it enters the network.
    """

    def __init__(
        self,
        shape: FieldShape,
        frequencies: Float32[Tensor, "3 f"],
        amplitude: Float32[Tensor, " shells"] | None = None,
        latent_scale: Float32[Tensor, " zdim"] | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.zdim = shape.zdim
        self.frequencies: Tensor
        self.amplitude: Tensor
        self.latent_scale: Tensor
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("amplitude", torch.ones(shape.box // 2 + 1) if amplitude is None else amplitude)
        self.register_buffer("latent_scale", torch.ones(shape.zdim) if latent_scale is None else latent_scale.clone())
        self.network = FieldNetwork(shape, 2 * frequencies.shape[1])

    def slices(
        self, z: Float32[Tensor, "b zdim"], rotation: Float32[Tensor, "b 3 3"], disk: FourierDisk
    ) -> Complex64[Tensor, "b size"]:
        """Central slices at each latent point; differentiable in `z`, in the rotation and in the weights.

        The rotation is folded into the encoding: `k3 @ B = k2 @ (R[:2] @ B)`, one small product for each image.
        """
        inside = disk.within(self.shape.box / 2)
        frequency = inside.frequency.to(rotation) / self.shape.box
        with torch.autocast(rotation.device.type, enabled=False):
            phase = frequency @ (rotation[:, :2] @ self.frequencies)
            side = frequency @ (rotation[:, :2] @ rotation.new_tensor(HALF_SPACE)[:, None])
        values = self._coefficients(phase, side, z) * self.amplitude_at(inside.radius.to(rotation))
        return functional.pad(values, (0, disk.size - inside.size))

    @torch.no_grad()
    def volume(self, z: Float32[Tensor, " zdim"], box: int) -> Float32[Tensor, "box box box"]:
        """The map at a latent point; a larger box than the images' interpolates, a smaller one crops the band."""
        inside, k = half_ball(box, min(box, self.shape.box) / 2, self.frequencies.device)
        point = z.to(k)[None]
        parts = []
        for chunk in k.split(POINTS):
            scaled = chunk / self.shape.box
            side = scaled @ scaled.new_tensor(HALF_SPACE)[:, None]
            values = self._coefficients((scaled @ self.frequencies)[None], side[None], point)
            parts.append(values[0] * self.amplitude_at(chunk.norm(dim=1)))
        return half_ball_map(torch.cat(parts), inside)

    def decoder(
        self, box: int, *, half_precision: bool = False
    ) -> Callable[[Float32[Tensor, " zdim"]], Float32[Tensor, "box box box"]]:
        """`volume` for many maps in one box: the encoding is multiplied into the first layer once, if that fits."""
        lattice = FieldLattice.of(self, box, half_precision=half_precision)
        return partial(self.volume, box=box) if lattice is None else lattice.volume

    def _coefficients(
        self, phase: Float[Tensor, "b m f"], side: Float[Tensor, "b m 1"], z: Float32[Tensor, "b zdim"]
    ) -> Complex64[Tensor, "b m"]:
        """The network at points given by their phases `k3 @ B`, folded into the half space by their `side` of it."""
        sign = torch.where(side < 0, -1.0, 1.0)
        answer = self.network(phase, sign, z / self.latent_scale)
        return torch.complex(answer[..., 0], answer[..., 1] * sign[..., 0])

    def amplitude_at(self, radius: Float32[Tensor, " m"]) -> Float32[Tensor, " m"]:
        """The amplitude at radii in Fourier pixels, between shells by linear interpolation."""
        low = radius.floor().long().clamp(max=len(self.amplitude) - 2)
        share = radius - low
        return self.amplitude[low] * (1 - share) + self.amplitude[low + 1] * share
