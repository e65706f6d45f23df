"""What a reader hands over about the rows of a particle file, before the image files are found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float64, Int, Int64

from cryomorph.config.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from cryomorph.physics.ctf import Ctf


@dataclass(frozen=True)
class StarTable:
    """A STAR file's blocks as string tokens, and the name of the block that lists the particles."""

    blocks: dict[str, pd.DataFrame]
    name: str

    @property
    def particles(self) -> pd.DataFrame:
        """The particles' block; its index holds the rows (0-based) of the file that was read."""
        return self.blocks[self.name]

    @property
    def optics(self) -> pd.DataFrame | None:
        """The optics groups' block, None before RELION 3.1."""
        return self.blocks.get("optics")

    def with_particles(self, particles: pd.DataFrame) -> StarTable:
        """The same file with other rows or columns in the particles' block."""
        particles.attrs = dict(self.particles.attrs)
        return replace(self, blocks={**self.blocks, self.name: particles})

    def select(self, index: Int[np.ndarray, " m"]) -> StarTable:
        """The same file with only the particles `index`."""
        return self.with_particles(self.particles.iloc[index])


@dataclass(frozen=True)
class Metadata:
    """The particles in use of one file, in our units where those need no image header.

    `image_of` is 0-based, or -1 where the file names an image file without a number in it; `row` is the row in the file
    that was read; `total` counts the rows of that file; `shift` is in Angstrom, in pixels or a fraction of the box.
    """

    files: tuple[str, ...]  # as written in the file
    file_of: Int64[np.ndarray, " n"]
    image_of: Int64[np.ndarray, " n"]
    row: Int64[np.ndarray, " n"]
    total: int
    table: StarTable | np.ndarray | None
    box: int | None = None
    pixel_A: float | None = None
    rotation: Float64[Tensor, "n 3 3"] | None = None
    shift: Float64[np.ndarray, "n 2"] | None = None
    shift_in: Literal["angstrom", "pixel", "box"] = "angstrom"
    ctf: Ctf | None = None
    blob_sign: float | None = None
    half: Int64[np.ndarray, " n"] | None = None
    contrast: Float64[np.ndarray, " n"] | None = None  # factor of each particle's projection, about 1
    ignored: tuple[str, ...] = ()


def check_index(index: Int64[np.ndarray, " m"] | None, total: int, path: Path) -> Int64[np.ndarray, " k"]:
    """The rows in use: `index`, or all of them.

    Raises:
        InputError: an index beyond the file's rows, or no particle at all.
    """
    rows = np.arange(total) if index is None else index
    if not rows.size:
        raise InputError(f"{path}: no particle is left, the file has {total} rows: give a file or an index with some")
    if rows.min() < 0 or rows.max() >= total:
        raise InputError(
            f"{path} has {total} particles, the index names particle {rows.max() if rows.min() >= 0 else rows.min()} "
            "(0-based): give the index that was made for this file"
        )
    return rows


def require_all(wanted: dict[str, bool], path: Path, *, what: str, advice: str) -> bool:
    """Whether all columns are there; False where none is.

    Raises:
        InputError: some are there and some are not.
    """
    missing = [name for name, present in wanted.items() if not present]
    if missing and len(missing) < len(wanted):
        raise InputError(f"{path} has only a part of the {what} columns, missing: {', '.join(missing)}: {advice}")
    return not missing


def one_value(values: Float64[np.ndarray, " n"], row: Int64[np.ndarray, " n"], path: Path, *, what: str) -> float:
    """The one value that all particles share.

    Raises:
        InputError: particles differ by more than 1 part in 10,000.
    """
    first = float(values[0])
    differs = np.abs(values - first) > 1e-4 * abs(first)
    if differs.any():
        at = int(differs.argmax())
        raise InputError(
            f"{path} mixes {what}: {first:g} in row {row[0]} and {values[at]:g} in row {row[at]} (0-based); expected "
            "one for all particles: select one optics group, or extract the particles again with one box and pixel size"
        )
    return first


def half_set(
    values: Float64[np.ndarray, " n"], first: int, row: Int64[np.ndarray, " n"], *, where: str
) -> Int64[np.ndarray, " n"]:
    """Half sets 0 and 1 from a column that counts them from `first`.

    Raises:
        InputError: another value.
    """
    half = values.astype(np.int64) - first
    wrong = (half != 0) & (half != 1)
    if wrong.any():
        at = int(wrong.argmax())
        raise InputError(f"{where} is {values[at]:g} in row {row[at]} (0-based): expected {first} or {first + 1}")
    return half
