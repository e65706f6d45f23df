"""Many maps of one neural field in one box: what does not depend on the latent point is computed once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.nn import functional

from cryomorph.representations.field_network import (
    HALF_SPACE,
    FieldNetwork,
    amplitude_at,
    half_ball,
    half_ball_map,
)

POINTS = {"cpu": 1 << 11, "cuda": 1 << 17}
"""Points passed through the network at once: on a CPU, few enough for its cache."""
MAX_BYTES = 2 << 30  # of encoded points: enough for a box of 200 at width 256, of 256 in bfloat16


@dataclass(frozen=True)
class FieldLattice:
    """A neural field at the Fourier points of a box; `volume` returns the field's own maps, faster.

    The positional encoding, and its product with the first layer, are the same for every latent point: `encoded` holds
    that product, a row of the network's width for each point, in the number format of the matrix products.
    """

    box: int
    inside: Bool[Tensor, "x y half"]
    encoded: Float[Tensor, "points width"]
    sign: Float32[Tensor, " points"]
    amplitude: Float32[Tensor, " points"]
    start: tuple[Float32[Tensor, "width zdim"] | None, Float32[Tensor, " width"]]
    """Weight (of the latent point; None without a latent space) and bias added before the first layer's relu."""
    layers: tuple[tuple[Tensor, Tensor], ...]
    """Weight and bias of each further layer, the output layer last; a skip connection adds the identity to a weight."""

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        network: FieldNetwork,
        frequencies: Float32[Tensor, "3 f"],
        box: int,
        *,
        image_box: int,
        amplitude: Float32[Tensor, " shells"],
        latent_scale: Float32[Tensor, " zdim"],
        half_precision: bool = False,
    ) -> FieldLattice | None:
        """The lattice of a field, on its device; None if it needs more than `MAX_BYTES`.

        Args:
            network, frequencies, amplitude, latent_scale: as in `NeuralField`.
            box: of the maps to make.
            image_box: of the images that the field is trained on.
            half_precision: matrix products in bfloat16.
        """
        dtype = torch.bfloat16 if half_precision else torch.float32
        device = frequencies.device
        width = network.encoding_layer.out_features
        radius = min(box, image_box) / 2
        if 2 / 3 * math.pi * radius**3 * width * dtype.itemsize > MAX_BYTES:
            return None
        inside, k = half_ball(box, radius, device)
        sign = torch.where(k @ k.new_tensor(HALF_SPACE) < 0, -1.0, 1.0)
        encoded = torch.empty(len(k), width, dtype=dtype, device=device)
        for part in torch.arange(len(k), device=device).split(1 << 14):
            phase = (k[part] / image_box) @ frequencies
            features = torch.cat([torch.sin(phase) * sign[part, None], torch.cos(phase)], dim=1)
            encoded[part] = functional.linear(features, network.encoding_layer.weight).to(dtype)
        latent = network.latent_layer
        layers = []
        for layer in network.hidden:
            weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            identity = torch.eye(len(weight), device=device) if network.residual else 0.0
            layers.append(((weight + identity).to(dtype), bias.detach().to(dtype)))
        layers.append((network.output.weight.detach().to(dtype), network.output.bias.detach().to(dtype)))
        return cls(
            box,
            inside,
            encoded,
            sign,
            amplitude_at(amplitude, k.norm(dim=1)),
            (None if latent is None else latent.weight / latent_scale, network.encoding_layer.bias.detach()),
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
