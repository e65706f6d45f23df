"""Maps from files as tensors, several of them on one grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.io.cube import read_cube

SAME_PIXEL = 1e-3  # relative difference of pixel sizes, to which headers round


@dataclass(frozen=True)
class LoadedMap:
    """A map `[z, y, x]`, its pixel size in Angstrom, and the file that it was read from.

    `origin_A` is where the file says that its first voxel lies; what is made from the map lies there too.
    """

    path: Path
    volume: Float32[Tensor, "z y x"]
    pixel_A: float
    origin_A: tuple[float, float, float]


def load_map(path: Path, pixel_A: float | None = None) -> LoadedMap:
    """Read a cubic map.

    Args:
        pixel_A: pixel size to use instead of the file's.

    Raises:
        InputError: the file is not a map, its sides differ, values are not finite, or no pixel size is known.
    """
    cube = read_cube(path, pixel_A)
    # the array may be a read-only view of the file
    return LoadedMap(path, torch.from_numpy(cube.array.copy()), cube.pixel_A, cube.origin_A)


def load_map_like(path: Path, reference: LoadedMap, pixel_A: float | None = None) -> LoadedMap:
    """Read a map that must have the box and the pixel size of another.

    Raises:
        InputError: as for `load_map`, or box or pixel size differ.
    """
    found = load_map(path, pixel_A)
    box, expected = len(found.volume), len(reference.volume)
    if box != expected:
        raise InputError(f"{path}: box {box}, but {reference.path} has box {expected}; resample one to the other's")
    if abs(found.pixel_A - reference.pixel_A) > SAME_PIXEL * reference.pixel_A:
        raise InputError(
            f"{path}: pixel size {found.pixel_A:g} A, but {reference.path} has {reference.pixel_A:g} A; resample one "
            "of them, or give --pixel-A if a header is wrong"
        )
    return found
