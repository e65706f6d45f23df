"""The decoder of OPUS-DSD: transposed convolutions from a latent point to a cube.

See docs/methods.md, "Convolutional volume".
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.2  # of LeakyReLU below zero
FIRST_SIDES = (2, 3, 5, 7)  # of the cube after the first convolution
MIN_SIDE = 8
LAST_GAIN = 0.1  # of the output layer: the output of an untrained network is small relative to the molecule


@dataclass(frozen=True)
class ConvShape:
    """Sizes of a convolutional volume, as saved with its weights.

    Args:
        box: of the images.
        side: of the cube, one of `sides`.
        channels: of the last layer before the output; each coarser layer has twice as many.
        hidden: width of the fully connected layer.
    """

    box: int
    zdim: int
    side: int
    channels: int = 16
    hidden: int = 512


def cube_side(least: int) -> int:
    """The smallest possible side of at least `least`: `m 2^k` with m of 2, 3, 5 or 7."""
    side = max(least, MIN_SIDE)
    while first_side(side) is None:
        side += 1
    return side


def first_side(side: int) -> int | None:
    """The side of the cube after the first convolution; each further one doubles it. None if a side is impossible."""
    for first in FIRST_SIDES:
        doublings = math.log2(side / first)
        if side >= MIN_SIDE and doublings == int(doublings) and doublings >= 1:
            return first
    return None


@final
class ConvNetwork(nn.Module):
    """`z -> hidden -> 1^3 -> m^3 -> (2m)^3 -> ... -> side^3`; LeakyReLU after all but the last.

    Kernels are stored as matrices `(in, out k^3)`, which Muon orthogonalises. The first two convolutions have kernels
    of m and 2, the others of 4 with a stride of 2. Their 2^3 blocks of taps are initialised with equal values, so that
    no parity of voxels is favoured (no checkerboard artefacts).
    """

    def __init__(self, shape: ConvShape) -> None:
        super().__init__()
        first = first_side(shape.side)
        if first is None:
            raise ValueError(f"a cube of side {shape.side} is not possible: expected {cube_side(shape.side)}")
        layers = 1 + round(math.log2(shape.side / first))
        widths = [shape.channels * 2**power for power in reversed(range(layers))] + [1]
        self.kernels = [first, 2] + [4] * (layers - 2)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element")  # zdim 0: only the bias
            self.input = nn.Linear(shape.zdim, shape.hidden)
        self.hidden = nn.Linear(shape.hidden, widths[0])
        for layer in (self.input, self.hidden) if shape.zdim else (self.hidden,):
            nn.init.kaiming_normal_(layer.weight, SLOPE)
        self.weight = nn.ParameterList()
        self.bias = nn.ParameterList()
        for number, (inputs, outputs) in enumerate(pairwise(widths)):
            edge = self.kernels[number]
            kernel = torch.randn(inputs, outputs, *(max(1, edge // 2) if edge == 4 else edge,) * 3)
            if edge == 4:
                for axis in (2, 3, 4):
                    kernel = kernel.repeat_interleave(2, axis)
            taps = 8 if edge == 4 else 1  # that contribute to each voxel
            gain = math.sqrt(2 / (1 + SLOPE**2)) if outputs > 1 else LAST_GAIN
            self.weight.append(nn.Parameter(kernel.flatten(1) * gain / math.sqrt(inputs * taps)))
            self.bias.append(nn.Parameter(torch.zeros(outputs)))

    def forward(self, z: Float[Tensor, "b zdim"]) -> Float[Tensor, "b side side side"]:
        """Cubes at latent points."""
        found = _bent(self.hidden(_bent(self.input(z))))[:, :, None, None, None]
        for number, (matrix, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            edge = self.kernels[number]
            kernel = matrix.view(len(matrix), len(bias), edge, edge, edge)
            stride, padding = (2, (edge - 2) // 2) if number else (1, 0)
            found = functional.conv_transpose3d(found, kernel, bias, stride=stride, padding=padding)
            if number < len(self.kernels) - 1:
                found = _bent(found)
        return found[:, 0]


def _bent(values: Tensor) -> Tensor:
    return functional.leaky_relu(values, SLOPE)
