"""Many maps of one neural field in one box: what does not depend on the latent point is computed once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.nn import functional

from cryomorph.representations.field_network import HALF_SPACE, half_ball, half_ball_map

if TYPE_CHECKING:
    from cryomorph.representations.neural_field import NeuralField

POINTS = {"cpu": 1 << 11, "cuda": 1 << 17}
"""Points that pass through the network at a time: on a CPU few enough for its cache, benchmarks/landscape.py."""
LARGEST = 2 << 30  # bytes of encoded points: a box of 200 at width 256, 256 in bfloat16


@dataclass(frozen=True)
class FieldLattice:
    """A neural field at the Fourier points of a box; `volume` is the field's own, faster.

    The positional encoding and its product with the first layer are the same for every latent point. `encoded` holds
    them, a row of the network's width for each point, in the number format of the products.
    """

    box: int
    inside: Bool[Tensor, "x y half"]
    encoded: Float[Tensor, "points width"]
    sign: Float32[Tensor, " points"]
    amplitude: Float32[Tensor, " points"]
    start: tuple[Float32[Tensor, "width zdim"] | None, Float32[Tensor, " width"]]
    """What the latent point adds before the first layer's relu: a matrix, and a constant."""
    layers: tuple[tuple[Tensor, Tensor], ...]
    """Weights and biases of the layers after that, the output's last; an identity is added where there is a skip."""

    @classmethod
    @torch.no_grad()
    def of(cls, field: NeuralField, box: int, *, half_precision: bool = False) -> FieldLattice | None:
        """The lattice of a field on the field's device, None where it would take more than 2 GiB.

        Args:
            half_precision: products in bfloat16.
        """
        kind = torch.bfloat16 if half_precision else torch.float32
        device, network = field.frequencies.device, field.network
        width = network.encoding_layer.out_features
        radius = min(box, field.shape.box) / 2
        if 2 / 3 * math.pi * radius**3 * width * kind.itemsize > LARGEST:
            return None
        inside, k = half_ball(box, radius, device)
        sign = torch.where(k @ k.new_tensor(HALF_SPACE) < 0, -1.0, 1.0)
        encoded = torch.empty(len(k), width, dtype=kind, device=device)
        for part in torch.arange(len(k), device=device).split(1 << 14):
            phase = (k[part] / field.shape.box) @ field.frequencies
            features = torch.cat([torch.sin(phase) * sign[part, None], torch.cos(phase)], dim=1)
            encoded[part] = functional.linear(features, network.encoding_layer.weight).to(kind)
        latent = network.latent_layer
        layers = []
        for layer in network.hidden:
            weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            identity = torch.eye(len(weight), device=device) if network.residual else 0.0
            layers.append(((weight + identity).to(kind), bias.detach().to(kind)))
        layers.append((network.output.weight.detach().to(kind), network.output.bias.detach().to(kind)))
        return cls(
            box,
            inside,
            encoded,
            sign,
            field.amplitude_at(k.norm(dim=1)),
            (None if latent is None else latent.weight / field.latent_scale, network.encoding_layer.bias.detach()),
            tuple(layers),
        )

    @torch.no_grad()
    def volume(self, z: Float32[Tensor, " zdim"]) -> Float32[Tensor, "box box box"]:
        """The map at a latent point, on the field's device."""
        weight, constant = self.start
        if weight is not None:
            constant = constant + weight @ z.to(constant)
        constant = constant.to(self.encoded.dtype)
        (*hidden_layers, output), parts = self.layers, []
        for rows in self.encoded.split(POINTS[self.encoded.device.type]):
            hidden = torch.relu_(rows + constant)
            for matrix, bias in hidden_layers:
                hidden = torch.relu_(functional.linear(hidden, matrix, bias))
            parts.append(functional.linear(hidden, *output).float())
        value = torch.cat(parts)
        return half_ball_map(torch.complex(value[:, 0], value[:, 1] * self.sign) * self.amplitude, self.inside)
