"""The effect of a latent point on Gaussians: a network, and parts that move as rigid bodies."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float32
from torch import Tensor, nn

POSITIONS, AMPLITUDES, WIDTHS = "positions", "amplitudes", "widths"
CHANGES = (POSITIONS, AMPLITUDES, WIDTHS)
DROPOUT = 0.3
STARTS, ITERATIONS = 8, 20  # of the k-means search for the units of a symmetric molecule
BLEND = 0.5  # width of the blending between parts, as a fraction of their spacing


@dataclass(frozen=True)
class GaussianShape:
    """Number of Gaussians, which of their parameters depend on the latent point, and size of the network.

    `parts`: number of rigid bodies that the Gaussians follow; 0 lets every Gaussian move by itself. `noisy`: dropout
    and batch normalisation before the output, as in the paper. `spread_penalty` and `decay`: weights in the loss of the
    variance of the Gaussians' log widths, and of the squares of the network's weights.
    """

    box: int
    zdim: int
    count: int
    changes: tuple[str, ...] = (POSITIONS, AMPLITUDES)
    parts: int = 16
    width: int = 128
    layers: int = 3
    noisy: bool = False
    spread_penalty: float = 0.0
    decay: float = 0.0


@final
class MotionNetwork(nn.Module):
    """An MLP from a latent point to changes of the Gaussians, which are 0 at `z = 0`; one head per kind of change.

    `gate` (3,) multiplies each kind, in the order of `CHANGES`, so that a recipe can enable them one after another.
    """

    def __init__(self, shape: GaussianShape) -> None:
        super().__init__()
        sizes = {
            POSITIONS: 6 * shape.parts or 3 * shape.count,
            AMPLITUDES: shape.count,
            WIDTHS: shape.count,
        }
        self.gate: Tensor
        self.register_buffer("gate", torch.ones(len(CHANGES)))
        widths = [shape.zdim, *[shape.width] * shape.layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.noise = nn.Sequential(nn.Dropout(DROPOUT), nn.BatchNorm1d(shape.width)) if shape.noisy else None
        self.heads = nn.ModuleDict({name: nn.Linear(shape.width, sizes[name], bias=False) for name in shape.changes})
        for head in self.heads.values():
            nn.init.normal_(head.get_parameter("weight"), std=1e-2 / shape.width**0.5)

    def forward(self, z: Float32[Tensor, "b zdim"]) -> dict[str, Float32[Tensor, "b outputs"]]:
        """Output of each head, minus its output at `z = 0`."""
        hidden = torch.cat([z, torch.zeros_like(z[:1])])
        for layer in self.hidden:
            hidden = torch.nn.functional.silu(layer(hidden))
        if self.noise is not None:
            hidden = self.noise(hidden)
        hidden = hidden[:-1] - hidden[-1:]
        return {name: head(hidden) * self.gate[CHANGES.index(name)] for name, head in self.heads.items()}


@final
class Parts(nn.Module):
    """Rigid bodies with centres spread over the molecule; every Gaussian follows a blend of the nearest ones.

    `p' = sum_m w_m (R_m (p - c_m) + c_m + t_m)`: linear blend skinning.

    Args:
        position: (n, 3) Gaussians that are divided into parts.
        count: number of parts.
    """

    def __init__(self, position: Float32[Tensor, "n 3"], count: int) -> None:
        super().__init__()
        self.centre: Tensor
        self.blend: Tensor
        centre = spread_points(position, count)
        self.register_buffer("centre", centre)
        self.register_buffer("blend", blend_weights(position, centre))
        import roma  # see physics.pose

        self._rotation = roma.rotvec_to_rotmat

    def forward(
        self, motion: Float32[Tensor, "b six"], position: Float32[Tensor, "#b n 3"], unit: float
    ) -> Float32[Tensor, "b n 3"]:
        """Displacements from a rotation vector in radians and a translation in units of `unit` pixels for each part."""
        turn, step = motion.unflatten(1, (-1, 6)).split(3, dim=2)
        matrix = self._rotation(turn) - torch.eye(3).to(turn)
        constant = step * unit - (matrix @ self.centre[..., None])[..., 0]
        blended = self.blend @ torch.cat([matrix.flatten(2), constant], dim=2)
        return (blended[..., :9].unflatten(2, (3, 3)) @ position[..., None])[..., 0] + blended[..., 9:]


def spread_points(position: Float32[Tensor, "n 3"], count: int) -> Float32[Tensor, "count 3"]:
    """Points spread evenly over a cloud: farthest-point sampling, then the mean of the points nearest to each."""
    chosen = position[(position - position.mean(0)).norm(dim=1).argmin()][None]
    distance = (position - chosen).norm(dim=1)
    for _ in range(count - 1):
        point = position[distance.argmax()][None]
        chosen = torch.cat([chosen, point])
        distance = torch.minimum(distance, (position - point).norm(dim=1))
    nearest = torch.cdist(position, chosen).argmin(1)
    own = torch.nn.functional.one_hot(nearest, count).to(position)
    return own.mT @ position / own.sum(0)[:, None].clamp(min=1)


def compact_unit(
    position: Float32[Tensor, "n 3"], weight: Float32[Tensor, " n"], group: Float32[Tensor, "g 3 3"]
) -> Float32[Tensor, " n"]:
    """1 for the points of one asymmetric unit of a symmetric cloud, 0 for the others; the units are compact.

    k-means with centres that are symmetry copies of each other: every point is assigned to the nearest copy `S c`, and
    `c` is the mean of all points mapped back to one unit.

    Args:
        group: rotations of the point group, the identity first.
    """
    best, chosen = float("inf"), torch.ones_like(weight)
    for start in spread_points(position, min(STARTS, len(position))):
        centre = start
        for _ in range(ITERATIONS):
            apart = torch.cdist(position, group @ centre)
            own = apart.argmin(1)
            home = (group[own].mT @ position[..., None])[..., 0]
            centre = weight @ home / weight.sum()
        spread = float(weight @ apart.amin(1).square())
        if spread < best:
            best, chosen = spread, (own == 0).to(weight)
    return chosen


def blend_weights(position: Float32[Tensor, "n 3"], centre: Float32[Tensor, "count 3"]) -> Float32[Tensor, "n count"]:
    """Weight of each part for every Gaussian: a Gaussian function of its distance, normalised."""
    if len(centre) == 1:
        return torch.ones(len(position), 1)
    apart = torch.cdist(centre, centre)
    spacing = apart[~torch.eye(len(centre), dtype=torch.bool)].view(len(centre), -1).amin(1).mean().clamp(min=1e-3)
    squared = torch.cdist(position, centre).square()
    return torch.softmax(-squared / (2 * (BLEND * spacing) ** 2), dim=1)
