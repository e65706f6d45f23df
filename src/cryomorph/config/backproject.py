"""What `cryomorph backproject` may be asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from cryomorph.config.prepare import ImageSource


@dataclass(frozen=True)
class BackprojectConfig:
    """Reconstruct one map of all particles, or of some, with half maps, FSC, mask and sharpening.

    Writes map.mrc (Wiener-filtered), half1.mrc and half2.mrc (unfiltered), mask.mrc, sharpened.mrc, fsc.csv, fsc.png
    and noise.csv into the output folder.
    """

    particles: tyro.conf.Positional[Path]
    """A particle file (.star, .cs, .txt, .mrcs), or a store made by `cryomorph prepare`."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the maps."""
    images: Annotated[ImageSource, tyro.conf.arg(name="")] = field(default_factory=ImageSource)
    """Where the images are and how to take them in."""
    mask: Path | None = None
    """Mask for the FSC (default: made from the map)."""
    bfactor: float | None = None
    """B-factor for sharpening in A^2, negative to sharpen (default: a Guinier fit)."""
    flip_hand: bool = False
    """Write the mirror image of every map."""
    seed: int = 0
    """Seed of the half sets, where neither the particle file nor a store has its own."""
    overwrite: bool = False
    """Replace maps that are there already."""
