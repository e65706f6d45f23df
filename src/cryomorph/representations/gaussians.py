"""The Gaussian mixture of e2gmm: Gaussians moved by a network and projected exactly.

See docs/methods.md, "Gaussian mixture".
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import final

import torch
from jaxtyping import Complex64, Float32
from torch import Tensor, nn
from torch.func import jvp, vmap
from torch.nn import functional

from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.gaussian_slices import Mixture, gaussian_map, project_channels, project_gaussians
from cryomorph.representations.base import Representation
from cryomorph.representations.gaussian_motion import (
    AMPLITUDES,
    POSITIONS,
    WIDTHS,
    GaussianShape,
    MotionNetwork,
    Parts,
)
from cryomorph.volumes.grid import resize

UNIT = 8.0  # pixels per unit of the position parameters, so that one learning rate suits positions and networks


@final
class Gaussians(Representation):
    """`V_z(r) = sum_j a_j(z) N(r; p_j(z), sigma_j(z)^2)`: a neutral mixture of Gaussians, changed by a network.

    At the latent point `origin` the changes are 0 and the mixture is the neutral one.

    Args:
        shape: number of Gaussians, box, kinds of change, and the network's size.
        neutral: the initial neutral mixture, one row, in pixels of the box.
        latent_scale: (zdim,) divisor of each latent coordinate before it enters the network.
        origin: (zdim,) the latent point of the neutral mixture.
        free: (count,) fraction of a change that each Gaussian follows, 0 to 1: a mask.
    """

    def __init__(
        self,
        shape: GaussianShape,
        neutral: Mixture | None = None,
        *,
        latent_scale: Float32[Tensor, " zdim"] | None = None,
        origin: Float32[Tensor, " zdim"] | None = None,
        free: Float32[Tensor, " count"] | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.zdim = shape, shape.zdim
        zeros = torch.zeros(1, shape.count)
        given = neutral or Mixture(torch.zeros(1, shape.count, 3), zeros + 1, zeros + 1)
        self.latent_scale: Tensor
        self.origin: Tensor
        self.free: Tensor
        self.amplitude_unit: Tensor
        self.register_buffer("latent_scale", torch.ones(shape.zdim) if latent_scale is None else latent_scale.clone())
        self.register_buffer("origin", torch.zeros(shape.zdim) if origin is None else origin.clone())
        self.register_buffer("free", torch.ones(shape.count) if free is None else free.clone())
        self.register_buffer("amplitude_unit", given.amplitude.mean().clone())
        share = (given.amplitude[0] / self.amplitude_unit).clamp(min=1e-3)
        self.position = nn.Parameter(given.position / UNIT)
        self.raw_amplitude = nn.Parameter(share + (-(-share).expm1()).log())
        self.log_width = nn.Parameter(given.width[0].log())
        self.parts = Parts(given.position[0].detach(), shape.parts) if shape.parts else None
        self.network = MotionNetwork(shape) if shape.zdim else None

    def facts(self) -> dict[str, str]:
        """The shape, as JSON."""
        return {"shape": json.dumps(asdict(self.shape))}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], facts: dict[str, str]) -> Gaussians:
        """The mixture of a model file."""
        shape = json.loads(facts["shape"])
        model = cls(GaussianShape(**shape | {"changes": tuple(shape["changes"])}))
        model.load_state_dict({name: tensors[name] for name in model.state_dict()})
        return model.eval()

    @property
    def neutral(self) -> Mixture:
        """The neutral mixture, one row."""
        amplitude = functional.softplus(self.raw_amplitude) * self.amplitude_unit
        return Mixture(self.position * UNIT, self.log_width.exp()[None], amplitude[None])

    def at(self, z: Float32[Tensor, "b zdim"]) -> Mixture:
        """The mixtures at latent points. Never in half precision, which positions do not tolerate."""
        with torch.autocast(z.device.type, enabled=False):
            return self._changed(z)

    def _changed(self, z: Float32[Tensor, "b zdim"]) -> Mixture:
        neutral = self.neutral
        if self.network is None:
            return Mixture(*(part.expand(len(z), *part.shape[1:]) for part in neutral))
        change = self.network((z - self.origin) / self.latent_scale)
        position, width, amplitude = neutral
        if POSITIONS in change:
            asked = change[POSITIONS]
            moved = asked.unflatten(1, (-1, 3)) * UNIT if self.parts is None else self.parts(asked, position, UNIT)
            position = position + moved * self.free[:, None]
        else:
            position = position.expand(len(z), -1, -1)
        if AMPLITUDES in change:
            raw = self.raw_amplitude + change[AMPLITUDES] * self.free
            amplitude = functional.softplus(raw) * self.amplitude_unit
        else:
            amplitude = amplitude.expand(len(z), -1)
        if WIDTHS in change:
            width = (self.log_width + change[WIDTHS] * self.free).exp()
        return Mixture(position, width, amplitude)

    def slices(
        self, z: Float32[Tensor, "b zdim"], rotation: Float32[Tensor, "b 3 3"], disk: FourierDisk
    ) -> Complex64[Tensor, "b size"]:
        """Exact central slices at each latent point; differentiable in `z`, the rotation and the weights."""
        inside = disk.within(self.shape.box / 2)
        seen = self.at(z).turned(rotation).scaled(disk.box / self.shape.box)
        found = project_gaussians(seen, inside)
        return functional.pad(found, (0, disk.size - inside.size))

    def penalty(self) -> Float32[Tensor, ""]:
        """Penalties on the variance of the log widths and on the squares of the network's weights."""
        cost = self.shape.spread_penalty * self.log_width.var(correction=0)
        if self.network is not None and self.shape.decay:
            cost = cost + self.shape.decay * sum(p.square().sum() for p in self.network.parameters() if p.ndim == 2)
        return cost

    def tangents(
        self,
        z: Float32[Tensor, "b zdim"],
        rotation: Float32[Tensor, "b 3 3"],
        disk: FourierDisk,
        *,
        latent: bool = True,
        pose: bool = False,
    ) -> tuple[Complex64[Tensor, "b size"], Complex64[Tensor, "b size p"]]:
        """As `Representation.tangents`, in closed form: moving a Gaussian by `dp` multiplies it by `-2 pi i k . dp`."""
        inside = disk.within(self.shape.box / 2)
        scale = disk.box / self.shape.box
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            mixture = self.at(z).turned(rotation).scaled(scale)
            seen, width, amplitude = mixture
            channels = [amplitude[:, None]]
            if latent and self.zdim:
                dp, dw, da = self.slopes(z, torch.eye(self.zdim).to(z))
                moved = torch.einsum("qbnx,byx->qbny", dp, rotation[:, :2]) * scale * amplitude[..., None]
                spread = amplitude * width * dw * scale
                changed = torch.stack([da, moved[..., 0], moved[..., 1], spread], dim=1)
                channels.append(changed.flatten(0, 1).transpose(0, 1))
            if pose:
                channels.append((seen * amplitude[..., None]).mT)
            parts = project_channels(mixture, torch.cat(channels, 1), inside)
            kx, ky = (-2j * torch.pi / disk.box) * inside.frequency.to(z).T
            columns = []
            if latent and self.zdim:
                each = parts[:, 1 : 1 + 4 * self.zdim].unflatten(1, (self.zdim, 4))
                columns.append(
                    each[:, :, 0] + kx * each[:, :, 1] + ky * each[:, :, 2] + (kx**2 + ky**2) * each[:, :, 3]
                )
            if pose:
                x, y, depth = parts[:, -3:].unbind(1)
                columns.append(torch.stack([-ky * depth, kx * depth, ky * x - kx * y], 1))
            found = torch.cat(columns, 1) if columns else parts[:, :0]
        whole = functional.pad(torch.cat([parts[:, :1], found], 1), (0, disk.size - inside.size))
        return whole[:, 0], whole[:, 1:].mT

    def slopes(
        self, z: Float32[Tensor, "b zdim"], directions: Float32[Tensor, "m zdim"]
    ) -> tuple[Float32[Tensor, "m b n 3"], Float32[Tensor, "m ... n"], Float32[Tensor, "m b n"]]:
        """Derivatives of positions, widths and amplitudes along directions in latent space, at each latent point."""

        def along(direction: Tensor) -> tuple[Tensor, ...]:
            found: tuple[Tensor, ...] = jvp(lambda point: tuple(self.at(point)), (z,), (direction.expand_as(z),))[1]
            return found

        position, width, amplitude = vmap(along)(directions)
        return position, width, amplitude

    @torch.no_grad()
    def volume(self, z: Float32[Tensor, " zdim"], box: int) -> Float32[Tensor, "box box box"]:
        """The map at a latent point; interpolated in a box larger than the images', low-passed in a smaller one."""
        within = min(box, self.shape.box)
        found = gaussian_map(self.at(z.to(self.origin)[None]).scaled(within / self.shape.box), within)
        return found if within == box else resize(found[None], box)[0] * (within / box) ** 3
