"""The neural field of cryoDRGN: an MLP from a point of Fourier space and a latent point to a value (METHODS 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex64, Float, Float32
from torch import Tensor, nn
from torch.nn import functional

from cryomorph.physics.disk import FourierDisk
from cryomorph.representations.base import Representation

# The half space that the network answers for: mostly kz > 0, tilted so that no lattice point lies on its face.
HALF_SPACE = (1e-6, 1e-3, 1.0)
POINTS = 1 << 16


@dataclass(frozen=True)
class FieldShape:
    """The size of a field's network: `layers` hidden layers of `width`, with skip connections where `residual`."""

    box: int
    zdim: int
    width: int = 256
    layers: int = 3
    residual: bool = True


@final
class FieldNetwork(nn.Module):
    """The MLP of a field, real numbers in and out."""

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
        """(re, im) at points of the half space; `sign` -1 where the point lies at `-k` of the phase given."""
        encoded = torch.cat([torch.sin(phase) * sign, torch.cos(phase)], dim=-1)
        hidden = functional.linear(encoded, self.encoding_layer.weight)
        constant: Tensor = self.encoding_layer.bias
        if self.latent_layer is not None:
            # once for each image, not for each point
            constant = functional.linear(z, self.latent_layer.weight, constant)[:, None]
        # rows from here on: relu in place on a view of them would copy every gradient
        hidden = torch.relu_(hidden + constant.to(hidden.dtype)).flatten(0, 1)
        for layer in self.hidden:
            weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            # relu(W h + h + b): the identity belongs to the matrix, which spares a pass over the activations
            matrix = weight + torch.eye(len(weight), device=weight.device) if self.residual else weight
            hidden = torch.relu_(functional.linear(hidden, matrix, bias))
        return self.output(hidden).float().unflatten(0, phase.shape[:2])


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
        values = self._coefficients(phase, side, z) * self._amplitude_at(inside.radius.to(rotation))
        return functional.pad(values, (0, disk.size - inside.size))

    @torch.no_grad()
    def volume(self, z: Float32[Tensor, " zdim"], box: int) -> Float32[Tensor, "box box box"]:
        """The map at a latent point; a larger box than the images' interpolates, a smaller one crops the band."""
        device = self.frequencies.device
        line = torch.fft.fftfreq(box, 1 / box).to(device)
        half = torch.arange(box // 2 + 1, device=device)
        kx, ky, kz = torch.meshgrid(line, line, half.float(), indexing="ij")
        limit = min(box, self.shape.box) / 2
        squared = kx**2 + ky**2 + kz**2
        keep = (squared > 0) & (squared < limit**2)
        k = torch.stack([kx[keep], ky[keep], kz[keep]], dim=1)
        point = z.to(device)[None]
        parts = []
        for chunk in k.split(POINTS):
            scaled = chunk / self.shape.box
            side = scaled @ scaled.new_tensor(HALF_SPACE)[:, None]
            values = self._coefficients((scaled @ self.frequencies)[None], side[None], point)
            parts.append(values[0] * self._amplitude_at(chunk.norm(dim=1)))
        transform = torch.zeros(kx.shape, dtype=torch.complex64, device=device)
        transform[keep] = torch.cat(parts)
        # the axes are [x, y, z] here, z halved: the half space is the network's own
        return torch.fft.fftshift(torch.fft.irfftn(transform, s=(box,) * 3)).permute(2, 1, 0).contiguous()

    def _coefficients(
        self, phase: Float[Tensor, "b m f"], side: Float[Tensor, "b m 1"], z: Float32[Tensor, "b zdim"]
    ) -> Complex64[Tensor, "b m"]:
        """The network at points given by their phases `k3 @ B`, folded into the half space by their `side` of it."""
        sign = torch.where(side < 0, -1.0, 1.0)
        answer = self.network(phase, sign, z / self.latent_scale)
        return torch.complex(answer[..., 0], answer[..., 1] * sign[..., 0])

    def _amplitude_at(self, radius: Float32[Tensor, " m"]) -> Float32[Tensor, " m"]:
        """The amplitude at radii in Fourier pixels, between shells by linear interpolation."""
        low = radius.floor().long().clamp(max=len(self.amplitude) - 2)
        share = radius - low
        return self.amplitude[low] * (1 - share) + self.amplitude[low + 1] * share
