"""Maps as the program needs them: cubes of finite numbers whose pixel size is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from cryomorph.config.errors import InputError
from cryomorph.io.mrc import read_map


def read_cube(path: str | Path, pixel_A: float | None = None) -> tuple[Float32[np.ndarray, "z y x"], float]:
    """A map `[z, y, x]` and its pixel size, `pixel_A` where it is given in place of the file's.

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
    return volume, found_A
