"""Options of `cryomorph align`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class AlignConfig:
    """Align a map to another, or the poses of a particle file to those of another file with the same particles.

    A map is rotated, shifted and, if that is better, mirrored to the other hand so that it correlates best with the
    fixed map. Poses are compared in the frame in which most of them agree: align found.star true.star.
    """

    moving: tyro.conf.Positional[Path]
    """The map to align, an MRC file; or the .star or .cs file with the poses to compare."""

    fixed: tyro.conf.Positional[Path]
    """The map to align to, of the same box and pixel size; or the file with the true poses."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write the aligned map here; or the particles with their poses in the frame of the true ones."""

    keep_hand: bool = False
    """Do not try the mirror image of a map."""

    pixel_A: float | None = None
    """Pixel size in Angstrom, instead of the one in the files."""

    overwrite: bool = False
    """Replace an existing output file."""
