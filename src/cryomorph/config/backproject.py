"""Options of `cryomorph backproject`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from cryomorph.config.prepare import ImageSource


@dataclass(frozen=True)
class BackprojectConfig:
    """Reconstruct one map from all particles, or from a subset, with half maps, FSC, mask and sharpening.

    Writes map.mrc (Wiener-filtered), half1.mrc and half2.mrc (unfiltered), mask.mrc, sharpened.mrc (their average,
    sharpened and weighted by the FSC), fsc.csv, fsc.png and noise.csv into the output folder.
    """

    particles: tyro.conf.Positional[Path]
    """A particle file (.star, .cs, .txt, .mrcs), or a store made by `cryomorph prepare`."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the maps."""
    images: Annotated[ImageSource, tyro.conf.arg(name="")] = field(default_factory=ImageSource)
    """Where the images are and how to read them."""
    mask: Path | None = None
    """Mask for the FSC, an MRC map of any box and pixel size (default: made from the map)."""
    bfactor: float | None = None
    """B-factor for sharpening in Angstrom^2, negative to sharpen (default: from a Guinier fit)."""
    flip_hand: bool = False
    """Write the mirror image of every map."""
    seed: int = 0
    """Seed of the half sets, if the particles do not have any."""
    overwrite: bool = False
    """Replace existing maps."""
