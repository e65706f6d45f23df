"""What `cryomorph mask` may be asked."""

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
    """Density above which a voxel is molecule; half of the map's 99.99th percentile if it is not given."""

    dilate_A: float = 25.0
    """How far to grow what is above the threshold, in Angstrom."""

    edge_A: float = 15.0
    """How wide the cosine edge outside it is, in Angstrom."""

    lowpass_A: float | None = None
    """Low-pass the map to this resolution in Angstrom first, so that noise does not reach the threshold."""

    largest_only: bool = False
    """Keep the largest connected piece only."""

    pixel_A: float | None = None
    """Pixel size in Angstrom, in place of the one in the file."""
