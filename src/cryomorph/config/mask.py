"""Options of `cryomorph mask`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class MaskConfig:
    """Make a soft mask from a map."""

    map: tyro.conf.Positional[Path]
    """The map to mask: an MRC file, white on dark."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The mask to write: an MRC file, 1 inside and 0 outside."""

    threshold: float | None = None
    """Density above which a voxel belongs to the molecule (default: half of the map's 99.99th percentile)."""

    dilate_A: float = 25.0
    """Distance by which to dilate the voxels above the threshold, in Angstrom."""

    edge_A: float = 15.0
    """Width of the cosine edge outside them, in Angstrom."""

    lowpass_A: float | None = None
    """Low-pass the map to this resolution in Angstrom first, so that noise stays below the threshold."""

    largest_only: bool = False
    """Keep only the largest connected component."""

    pixel_A: float | None = None
    """Pixel size in Angstrom, instead of the one in the file."""

    overwrite: bool = False
    """Replace an existing output file."""
