"""Options of `cryomorph train linear`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cryomorph.config.methods import MethodEntry
from cryomorph.config.prepare import ImageSource


@dataclass(frozen=True)
class LinearConfig:
    """Fit a linear subspace of maps by probabilistic PCA: a first landscape in under a minute.

    Maps are `mean + z_1 component_1 + ... + z_q component_q`; every particle gets its most probable z and the
    uncertainty of it, whatever its contrast and the small errors of its pose, which are estimated too. One model is
    fitted to each half set and the two are compared, so that the report can say how many components are reproducible;
    then one model is fitted to all particles.
    """

    device = "cpu"
    particles: tyro.conf.Positional[Path]
    """Particle file (.star, .cs, .txt, .mrcs), prepared into RUN/particles, or a store made by `prepare`."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Run folder to create."""
    zdim: int = 6
    """Number of components, 1 to 20. The report says how many of them the two half sets agree on."""
    recipe: Literal["default", "paper"] = "default"
    """Settings to start from. This method has no published settings: unlike the others, it has only the default."""
    mask: str = "auto"
    """Where maps may differ: a mask file of any box and pixel size, sphere, or auto: around the density of the
    consensus."""
    max_radius: int = 32
    """Band limit in Fourier pixels: finer detail than box / radius pixels is left to the other methods."""
    contrast: bool = True
    """Estimate the contrast of each particle, which varies with the thickness of the ice, along with its z."""
    fix_poses: bool = False
    """Take the given poses as they are. By default the errors of each particle's rotation and shift are estimated along
    with its z, with priors learnt from all particles."""
    iterations: int = 4
    """EM iterations for each half set at each band limit; the first, which starts at random, gets three times as
    many."""
    final_iterations: int = 4
    """EM iterations on all particles at the final band limit, after the models of the half sets were compared."""
    images: Annotated[ImageSource, tyro.conf.arg(name="")] = field(default_factory=ImageSource)
    """Where the images are and how to read them."""
    seed: int = 0
    """Seed of the random starts, and of the half sets if neither the particle file nor a store defines them."""
    resume: bool = False
    """Continue an interrupted run from its last checkpoint."""
    overwrite: bool = False
    """Replace an existing run."""


METHOD = MethodEntry(
    "linear",
    LinearConfig,
    method="cryomorph.methods.linear:LINEAR",
    representation="cryomorph.representations.linear:LinearSubspace",
)
