"""Maps as the program needs them: cubes of finite numbers whose pixel size is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from cryomorph.config.errors import InputError
from cryomorph.io.mrc import read_map
from cryomorph.io.mrc_header import read_header


@dataclass(frozen=True)
class Cube:
    """A map `[z, y, x]`, its pixel size, and where its first voxel lies, `(x, y, z)` as `MrcHeader` has it."""

    array: Float32[np.ndarray, "z y x"]
    pixel_A: float
    origin_A: tuple[float, float, float]


def read_cube(path: str | Path, pixel_A: float | None = None) -> Cube:
    """Read a map, with `pixel_A` in place of the file's where it is given.

    Raises:
        InputError: the file is no map, its sides differ, values are not finite, or no pixel size is known.
    """
    volume, stored_A = read_map(path)
    if len(set(volume.shape)) != 1:
        z, y, x = volume.shape
        raise InputError(f"{path}: {z} x {y} x {x} voxels, expected a cube; pad or crop the map to one")
    found_A = stored_A if pixel_A is None else pixel_A
    if not found_A > 0:
        raise InputError(f"{path}: pixel size {found_A:g} A, expected one above 0; give it with --pixel-A")
    if not np.isfinite(volume).all():
        raise InputError(f"{path}: some values are not finite, expected numbers only; reconstruct the map again")
    return Cube(volume, found_A, read_header(path).origin_A)
