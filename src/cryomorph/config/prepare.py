"""Options of `cryomorph prepare`, and of `train` and `backproject` where they prepare particles themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class ImageSource:
    """Where the images are and how to take them in."""

    box: int | None = None
    """Working box in pixels, even: images are cropped to it in Fourier space (default: their own, at most 128)."""
    datadir: Path | None = None
    """Folder that the image paths of the particle file are relative to. Default: the particle file's folder."""
    strip_prefix: str | None = None
    """Leading part of the image paths to take away before they are looked for, for files that were moved."""
    pixel_A: float | None = None
    """Pixel size of the images in Angstrom, in place of what the files state."""
    passthrough: tuple[Path, ...] = ()
    """cryoSPARC passthrough .cs files with the columns that the particle file lacks."""
    poses: Path | None = None
    """cryoDRGN pose.pkl with the orientations, for particle files without them."""
    ctf: Path | None = None
    """cryoDRGN ctf.pkl with the CTF parameters, for particle files without them."""
    index: Path | None = None
    """Use only these particles: a .txt file with one 0-based number a line, a .npy array, or cryoDRGN's ind.pkl."""
    skip_bad: bool = False
    """Leave out images that hold NaN or no variance, and name them, instead of refusing the set."""
    invert: Literal["auto", "yes", "no"] = "auto"
    """Whether to invert the contrast: particles are white inside. auto decides by a trial back-projection."""


@dataclass(frozen=True)
class PrepareConfig:
    """Turn a particle file into a store of noise-normalised Fourier coefficients.

    The store is what every other command reads: centred on use, half the size of the images, larger than memory if need
    be. A killed run goes on where it stopped when the same command is given again. `train` does all this by itself; a
    store of its own saves time when several runs share it.
    """

    particles: tyro.conf.Positional[Path]
    """RELION .star, cryoSPARC .cs, .txt list of stacks, or a stack (.mrcs)."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the store to make."""
    images: Annotated[ImageSource, tyro.conf.arg(name="")] = field(default_factory=ImageSource)
    """Where the images are and how to take them in."""
    overwrite: bool = False
    """Replace a store that is there already."""
    seed: int = 0
    """Seed of the half sets, where the file names none."""
