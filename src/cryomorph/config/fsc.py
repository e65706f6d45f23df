"""Options of `cryomorph fsc`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class FscConfig:
    """Fourier shell correlation of two maps, and the resolutions at 0.143 and 0.5."""

    map_a: tyro.conf.Positional[Path]
    """First map: an MRC file, such as a half map."""

    map_b: tyro.conf.Positional[Path]
    """Second map, of the same box and pixel size."""

    mask: Path | None = None
    """Correlate within this soft mask (an MRC map from 0 to 1 of any box and pixel size), and correct for the
    correlation it causes."""

    auto_mask: bool = False
    """Make the mask from the mean of the two maps, low-passed to 15 A or to 5 pixels, whichever is larger."""

    pixel_A: float | None = None
    """Pixel size in Angstrom, instead of the one in the files."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write the curves to this CSV file."""

    plot: Path | None = None
    """Plot the curves into this file: .png, .svg or .pdf."""

    seed: int = 0
    """Seed of the random phases by which the effect of the mask is measured."""

    overwrite: bool = False
    """Replace existing output files."""
