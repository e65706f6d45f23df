"""Options of `cryomorph encode`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from cryomorph.config.prepare import ImageSource


@dataclass(frozen=True)
class EncodeConfig:
    """Find the latent points of new particles under a trained model.

    The result is a run folder: it holds the model, the new particles and where they lie, so that analyze, decode and
    select work on it. The particles need orientations in the frame of the run's own.
    """

    run: tyro.conf.Positional[Path]
    """Run folder with the trained model."""
    particles: tyro.conf.Positional[Path]
    """A particle file, or a store from `prepare`, of the run's working box and pixel size."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Run folder to make."""
    images: Annotated[ImageSource, tyro.conf.arg(name="")] = field(default_factory=ImageSource)
    """Where the images are and how to take them in."""
    device: str = "auto"
    """Device to work on: cpu, cuda, or auto, which takes a GPU where there is one."""
    seed: int = 0
    """Seed of the half sets, where the file names none."""
    resume: bool = False
    """Go on with particles whose preparation was interrupted."""
    overwrite: bool = False
    """Replace a run that is there already."""
