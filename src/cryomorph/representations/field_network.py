"""The network of a neural field, and the half of Fourier space on which it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Complex64, Float, Float32
from torch import Tensor, nn
from torch.nn import functional

# normal of the half space on which the network is evaluated: kz > 0, tilted so that no lattice point lies on its face
HALF_SPACE = (1e-6, 1e-3, 1.0)


@dataclass(frozen=True)
class FieldShape:
    """Size of a field's network: `layers` hidden layers of `width`, with skip connections if `residual`."""

    box: int
    zdim: int
    width: int = 256
    layers: int = 3
    residual: bool = True


@final
class FieldNetwork(nn.Module):
    """The MLP of a field, with real inputs and outputs."""

    def __init__(self, shape: FieldShape, encoded: int) -> None:
        super().__init__()
        self.residual = shape.residual
        self.encoding_layer = nn.Linear(encoded, shape.width)
        self.latent_layer = nn.Linear(shape.zdim, shape.width, bias=False) if shape.zdim else None
        self.hidden = nn.Sequential(*(nn.Linear(shape.width, shape.width) for _ in range(shape.layers)))
        self.output = nn.Linear(shape.width, 2)

    def forward(
        self, phase: Float[Tensor, "b m f"], sign: Float[Tensor, "b m 1"], z: Float32[Tensor, "b zdim"]
    ) -> Float32[Tensor, "b m 2"]:
        """(re, im) at points of the half space.

        Args:
            phase: `k @ B` of each point `k`, `B` the matrix of the positional encoding.
            sign: -1 where `-k`, not `k`, lies in the half space.
        """
        encoded = torch.cat([torch.sin(phase) * sign, torch.cos(phase)], dim=-1)
        hidden = functional.linear(encoded, self.encoding_layer.weight)
        constant: Tensor = self.encoding_layer.bias
        if self.latent_layer is not None:
            # computed per image, not per point
            constant = functional.linear(z, self.latent_layer.weight, constant)[:, None]
        # flattened to rows from here on: an in-place relu on a view would copy every gradient
        hidden = torch.relu_(hidden + constant.to(hidden.dtype)).flatten(0, 1)
        for layer in self.hidden:
            weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            # relu(W h + h + b): adding the identity to the matrix saves a pass over the activations
            matrix = weight + torch.eye(len(weight), device=weight.device) if self.residual else weight
            hidden = torch.relu_(functional.linear(hidden, matrix, bias))
        return self.output(hidden).float().unflatten(0, phase.shape[:2])


def half_ball(
    box: int, radius: float, device: torch.device
) -> tuple[Bool[Tensor, "x y half"], Float32[Tensor, "points 3"]]:
    """Lattice points `k` of a box with `0 < |k| < radius` and kz >= 0: a mask of them, and `k` in Fourier pixels.

    The axes are [x, y, z] here, with z halved as in a real transform.
    """
    line = torch.fft.fftfreq(box, 1 / box).to(device)
    half = torch.arange(box // 2 + 1, device=device).float()
    squared = line[:, None, None] ** 2 + line[:, None] ** 2 + half**2
    inside = (squared > 0) & (squared < radius**2)
    return inside, torch.stack([axis[inside] for axis in torch.meshgrid(line, line, half, indexing="ij")], dim=1)


def half_ball_map(
    values: Complex64[Tensor, " points"], inside: Bool[Tensor, "x y half"]
) -> Float32[Tensor, "box box box"]:
    """The map `[z, y, x]` whose Fourier transform has these values at the points of `half_ball`, and is 0 elsewhere."""
    transform = torch.zeros(inside.shape, dtype=torch.complex64, device=inside.device)
    transform[inside] = values
    return torch.fft.fftshift(torch.fft.irfftn(transform, s=(inside.shape[0],) * 3)).permute(2, 1, 0).contiguous()


def amplitude_at(amplitude: Float32[Tensor, " shells"], radius: Float32[Tensor, " m"]) -> Float32[Tensor, " m"]:
    """Amplitude at radii in Fourier pixels, linearly interpolated between shells."""
    low = radius.floor().long().clamp(max=len(amplitude) - 2)
    share = radius - low
    return amplitude[low] * (1 - share) + amplitude[low + 1] * share
