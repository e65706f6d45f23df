"""The neural field of cryoDRGN: an MLP from a point of Fourier space and a latent point to a coefficient.

See docs/methods.md, "Neural field".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import final

import torch
from jaxtyping import Complex64, Float, Float32
from torch import Tensor
from torch.nn import functional

from cryomorph.physics.disk import FourierDisk
from cryomorph.representations.base import Representation
from cryomorph.representations.field_lattice import FieldLattice
from cryomorph.representations.field_network import (
    HALF_SPACE,
    FieldNetwork,
    FieldShape,
    amplitude_at,
    half_ball,
    half_ball_map,
)

POINTS = 1 << 16  # passed through the network at once


@final
class NeuralField(Representation):
    """`V_z(k)`: positional encoding of `k`, plus a linear term of `z`, through an MLP to (re, im).

    A coefficient at `k` outside the half space is the conjugate of that at `-k`; beyond Nyquist coefficients are 0. The
    output is multiplied by the molecule's amplitude in its shell, so that the network's own output is near 1.

    Args:
        shape: size of the network.
        frequencies: (3, f) matrix of the encoding, see `frequency_matrix`.
        amplitude: (box/2 + 1,) amplitude of each shell; 1 by default.
        latent_scale: (zdim,) divisor of each latent coordinate before it enters the network.
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

    def facts(self) -> dict[str, str]:
        """The shape, as JSON."""
        return {"shape": json.dumps(asdict(self.shape))}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], facts: dict[str, str]) -> NeuralField:
        """The field of a model file."""
        field = cls(FieldShape(**json.loads(facts["shape"])), torch.zeros_like(tensors["frequencies"]))
        field.load_state_dict({name: tensors[name] for name in field.state_dict()})
        return field.eval()

    def slices(
        self, z: Float32[Tensor, "b zdim"], rotation: Float32[Tensor, "b 3 3"], disk: FourierDisk
    ) -> Complex64[Tensor, "b size"]:
        """Central slices at each latent point; differentiable with respect to `z`, the rotation and the weights.

        The rotation is folded into the encoding: `k3 @ B = k2 @ (R[:2] @ B)`, one small product per image.
        """
        inside = disk.within(self.shape.box / 2)
        frequency = inside.frequency.to(rotation) / self.shape.box
        with torch.autocast(rotation.device.type, enabled=False):
            phase = frequency @ (rotation[:, :2] @ self.frequencies)
            side = frequency @ (rotation[:, :2] @ rotation.new_tensor(HALF_SPACE)[:, None])
        values = self._coefficients(phase, side, z) * amplitude_at(self.amplitude, inside.radius.to(rotation))
        return functional.pad(values, (0, disk.size - inside.size))

    @torch.no_grad()
    def volume(self, z: Float32[Tensor, " zdim"], box: int) -> Float32[Tensor, "box box box"]:
        """The map at a latent point; interpolated in a box larger than the images', low-passed in a smaller one."""
        inside, k = half_ball(box, min(box, self.shape.box) / 2, self.frequencies.device)
        point = z.to(k)[None]
        parts = []
        for chunk in k.split(POINTS):
            scaled = chunk / self.shape.box
            side = scaled @ scaled.new_tensor(HALF_SPACE)[:, None]
            values = self._coefficients((scaled @ self.frequencies)[None], side[None], point)
            parts.append(values[0] * amplitude_at(self.amplitude, chunk.norm(dim=1)))
        return half_ball_map(torch.cat(parts), inside)

    def decoder(
        self, box: int, *, half_precision: bool = False
    ) -> Callable[[Float32[Tensor, " zdim"]], Float32[Tensor, "box box box"]]:
        """`volume` for many maps in one box: the encoding passes through the first layer once, if memory allows."""
        lattice = self.lattice(box, half_precision=half_precision)
        return partial(self.volume, box=box) if lattice is None else lattice.volume

    def lattice(self, box: int, *, half_precision: bool = False) -> FieldLattice | None:
        """The field at the Fourier points of a box, prepared for many latent points; None if it needs over 2 GiB."""
        return FieldLattice.of(
            self.network,
            self.frequencies,
            box,
            image_box=self.shape.box,
            amplitude=self.amplitude,
            latent_scale=self.latent_scale,
            half_precision=half_precision,
        )

    def _coefficients(
        self, phase: Float[Tensor, "b m f"], side: Float[Tensor, "b m 1"], z: Float32[Tensor, "b zdim"]
    ) -> Complex64[Tensor, "b m"]:
        """Coefficients at points given by their phases `k3 @ B`; `side` is below 0 outside the half space."""
        sign = torch.where(side < 0, -1.0, 1.0)
        output = self.network(phase, sign, z / self.latent_scale)
        return torch.complex(output[..., 0], output[..., 1] * sign[..., 0])
