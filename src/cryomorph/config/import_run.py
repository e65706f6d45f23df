"""Options of `cryomorph import`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from cryomorph.config.prepare import ImageSource


@dataclass(frozen=True)
class ImportConfig:
    """Bring a cryoDRGN 4 run over: its latent points and its decoder become a run folder.

    Particles, poses, CTF and index file are those that the run's config.yaml names, unless others are given.
    """

    cryodrgn: tyro.conf.Positional[Path]
    """Output folder of `cryodrgn train_vae`, with config.yaml, weights.pkl and z.pkl."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Run folder to make."""
    epoch: int | None = None
    """Take weights.N.pkl and z.N.pkl of this epoch (default: weights.pkl and z.pkl, else the last epoch's)."""
    particles: Path | None = None
    """Particle file, where config.yaml's is no longer there; a .star or .cs keeps its columns."""
    images: Annotated[ImageSource, tyro.conf.arg(name="")] = field(default_factory=ImageSource)
    """Where the images are and how to take them in."""
    seed: int = 0
    """Seed of the half sets, where the file names none."""
    resume: bool = False
    """Go on with particles whose preparation was interrupted."""
    overwrite: bool = False
    """Replace a run that is there already."""
