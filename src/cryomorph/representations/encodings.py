"""Frequencies of the positional encodings: every variant is `sin, cos` of `k3 @ B` for a matrix `B`.

See docs/methods.md, "Neural field".
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float32
from torch import Tensor

Encoding = Literal["gaussian", "geometric", "geometric-low", "iclr"]
ICLR_SHARE = 0.9  # the ICLR paper omits the highest tenth of the frequencies


def frequency_matrix(
    encoding: Encoding, box: int, *, sigma: float = 0.5, count: int | None = None, seed: int = 0
) -> Float32[Tensor, "3 f"]:
    """The matrix `B` (radians per unit of `k3`, in cycles per pixel) of an encoding.

    `geometric`: `D pi (2/D)^(i/(D/2-1))`, i = 0..D/2-1, along each axis (Nature Methods 2021, positional encoding);
    `geometric-low`: wavelengths longer by 2 pi; `iclr`: without the highest tenth; `gaussian`: `count` (default
    `3 D/2`) normal columns times `sigma D/2`.
    """
    half = box // 2
    if encoding == "gaussian":
        generator = torch.Generator().manual_seed(seed)
        columns = 3 * half if count is None else count
        return torch.randn(3, columns, generator=generator) * (sigma * half)
    line = box * math.pi * (2 / box) ** (torch.arange(half) / (half - 1))
    if encoding == "geometric-low":
        line = line / (2 * math.pi)
    if encoding == "iclr":
        line = line[half - math.floor(ICLR_SHARE * half) :]
    return torch.block_diag(*[line[None]] * 3)
