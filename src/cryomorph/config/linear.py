"""What `cryomorph train linear` may be asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cryomorph.config.prepare import ImageSource


@dataclass(frozen=True)
class LinearConfig:
    """Fit a linear subspace of maps by probabilistic PCA: a first landscape in under a minute.

    Maps are `mean + z_1 component_1 + ... + z_q component_q`; every particle gets its most probable z and how sure
    it is.
    Two models are fitted to the half sets independently and compared, so that the report says how many components
    to believe; then one model is fitted to all particles.
    """

    particles: tyro.conf.Positional[Path]
    """A particle file (.star, .cs, .txt, .mrcs), prepared on the fly into RUN/particles, or a store from `prepare`."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Run folder to make."""
    zdim: int = 6
    """Number of components, 1 to 20. The report says how many of them the two half sets agree on."""
    recipe: Literal["default", "paper"] = "default"
    """Schedule of the fit. paper is a publication's own, which this method, unlike the others, does not have."""
    mask: str = "auto"
    """Where maps may differ: a mask file in the working box, sphere, or auto: all around the consensus's density."""
    max_radius: int = 32
    """Largest band in Fourier pixels: finer detail than box / radius pixels is left to the other methods."""
    contrast: bool = False
    """Estimate the contrast of each particle too, for sets in which ice thickness varies."""
    iterations: int = 4
    """EM iterations at each band of each half set; the first band, which starts at random, gets three times as many."""
    final_iterations: int = 4
    """EM iterations on all particles at the full band, after the half sets' models were compared."""
    images: Annotated[ImageSource, tyro.conf.arg(name="")] = field(default_factory=ImageSource)
    """Where the images are and how to take them in."""
    seed: int = 0
    """Seed of the random starts, and of the half sets where neither the particle file nor a store has its own."""
    resume: bool = False
    """Go on with a run that was interrupted, from its last checkpoint."""
    overwrite: bool = False
    """Replace a run that is there already."""
