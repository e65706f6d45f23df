"""A map of density with its pixel size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cryomorph.config.errors import InputError
from cryomorph.io.atomic import check_output


@dataclass(frozen=True, eq=False)
class Map:
    """A map: `array` is `[z, y, x]`, float32, read-only, its origin at voxel `box // 2`; `pixel_A` in Angstrom.

    `origin_A`, `(x, y, z)`, is where the first voxel lies in the coordinates of atomic models: kept from file to file.
    `numpy.asarray(map)` is the array.
    """

    array: np.ndarray
    pixel_A: float
    origin_A: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        array = np.ascontiguousarray(self.array, dtype=np.float32).view()
        if array.ndim != 3 or len(set(array.shape)) != 1:
            raise InputError(f"a map of shape {array.shape}: expected a cube, [z, y, x]")
        if not self.pixel_A > 0:
            raise InputError(f"pixel size {self.pixel_A:g} A: expected one above 0")
        array.flags.writeable = False
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "pixel_A", float(self.pixel_A))

    @classmethod
    def load(cls, path: str | Path, *, pixel_A: float | None = None) -> Map:
        """Read an MRC file.

        Args:
            pixel_A: pixel size in place of the file's.

        Raises:
            InputError: the file is no map, its sides differ, values are not finite, or no pixel size is known.
        """
        from cryomorph.io.cube import read_cube

        cube = read_cube(path, pixel_A)
        return cls(cube.array, cube.pixel_A, cube.origin_A)

    @property
    def box(self) -> int:
        """Voxels along each side."""
        return len(self.array)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write an MRC file; `InputError` where one is there already and is not to be replaced."""
        from cryomorph.io.mrc import write_map

        path = Path(path)
        check_output(path, overwrite=overwrite)
        write_map(path, self.array, self.pixel_A, origin_A=self.origin_A)
        return path

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001
        return np.array(self.array, dtype=dtype) if copy else np.asarray(self.array, dtype=dtype)

    def __repr__(self) -> str:
        return f"<Map of {self.box} x {self.box} x {self.box} voxels, {self.pixel_A:.3f} A each>"

    def _repr_png_(self) -> bytes:
        """The three central slices, for notebooks."""
        from cryomorph.render.slices import central_slices, png

        return png(central_slices(self.array))
