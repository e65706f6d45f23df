"""Hierarchical uniform grids on SO(3): HEALPix directions times in-plane angles (Yershova et al. 2010).

Level 0 has 48 directions (`nside` 2) and 12 in-plane angles, 576 rotations about 30 degrees apart; each further level
halves the distance and has eight times as many. A rotation's number is `direction * angles + angle`, with directions in
HEALPix's nested order, so that the children of a cell lie within it.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

BASE_NSIDE, BASE_ANGLES = 2, 12
LAST_LEVEL = 8
CHILDREN = 8
Vectors = Float64[np.ndarray, "*n 3"]
Numbers = Int64[np.ndarray, "*n"]


def grid_size(level: int) -> int:
    """Number of rotations of a level: `576 * 8^level`."""
    if not 0 <= level <= LAST_LEVEL:
        raise ValueError(f"level {level}: expected 0 to {LAST_LEVEL}")
    return 12 * _nside(level) ** 2 * _angles(level)


def grid_spacing_deg(level: int) -> float:
    """In-plane step at a level, about the distance between neighbours: 30 degrees, halved at each level."""
    return 360 / _angles(level)


def grid_rotations(level: int, index: Int64[Tensor, "*n"] | None = None) -> Float32[Tensor, "*n 3 3"]:
    """Rotations at the centres of cells given by their numbers (default: all cells).

    `R` takes the volume's coordinates to the image's; its third row is the cell's viewing direction, and the in-plane
    angle rotates the image.
    """
    import healpix

    if index is None:
        index = torch.arange(grid_size(level))
    number = index.cpu().numpy()
    direction, angle = np.divmod(number, _angles(level))
    x, y, z = healpix.pix2vec(_nside(level), direction, nest=True)
    psi = (angle + 0.5) * (2 * np.pi / _angles(level))
    first, second = _frame(np.stack([x, y, z], axis=-1), direction, level)
    cosine, sine = np.cos(psi)[..., None], np.sin(psi)[..., None]
    rows = [cosine * first + sine * second, cosine * second - sine * first, np.stack([x, y, z], axis=-1)]
    return torch.from_numpy(np.stack(rows, axis=-2).astype(np.float32)).to(index.device)


def children(index: Int64[Tensor, "*n"], level: int) -> Int64[Tensor, "*n 8"]:
    """Numbers at `level + 1` of the eight cells into which each cell of `level` is divided."""
    direction, angle = index // _angles(level), index % _angles(level)
    number = torch.arange(CHILDREN, device=index.device)
    return (4 * direction[..., None] + number // 2) * _angles(level + 1) + 2 * angle[..., None] + number % 2


def _frame(view: Vectors, direction: Numbers, level: int) -> tuple[Vectors, Vectors]:
    """First two rows of the rotation with in-plane angle 0 for a viewing direction: the shortest rotation from a pole.

    The pole is the one closer to the level-0 cell that contains the direction, so that no cell contains the antipode of
    its pole, where the Hopf fibration is singular.
    """
    import healpix

    coarsest = direction // 4**level
    pole = np.where(np.asarray(healpix.pix2vec(BASE_NSIDE, coarsest, nest=True)[2]) > 0, 1.0, -1.0)
    x, y, z = np.moveaxis(view, -1, 0)
    # the rotation about (pole x view) that takes the pole to the view, applied to the axes (1, 0, 0) and (0, pole, 0)
    share = 1 / (1 + pole * z)
    first = np.stack([1 - share * x * x, -share * x * y, -pole * x], axis=-1)
    return first, np.cross(view, first)


def _nside(level: int) -> int:
    return int(BASE_NSIDE * 2**level)


def _angles(level: int) -> int:
    return int(BASE_ANGLES * 2**level)
