"""What `cryomorph align` may be asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class AlignConfig:
    """Lay one map upon another, or one file's poses upon another's of the same particles.

    Two maps are turned, shifted and, where that is better, flipped to the other hand until they correlate best. Two
    particle files are compared in the frame that brings most of their poses together: found.star true.star.
    """

    moving: tyro.conf.Positional[Path]
    """The map to turn, an MRC file; or the .star or .cs file of particles whose poses were found."""

    fixed: tyro.conf.Positional[Path]
    """The map to lay it upon, of the same box and pixel size; or the particles with their true poses."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write the aligned map here; or the found particles with their poses in the true ones' frame."""

    keep_hand: bool = False
    """Do not try the mirror image of a map."""

    pixel_A: float | None = None
    """Pixel size in Angstrom, in place of the one in the files."""
