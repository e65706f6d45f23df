"""Options of `cryomorph abinit`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cryomorph.config.prepare import ImageSource


@dataclass(frozen=True)
class PaperConfig:
    """Schedule and networks of --recipe paper."""

    random_images: int = 10_000
    """Images that the network is trained on at random poses before poses are searched (--recipe paper)."""
    searches: int | None = None
    """Epochs in which poses are searched (--recipe paper; default: 4, or more until 200,000 images are searched)."""
    search_every: int = 1
    """Search poses every this many epochs; the others train at the poses found last (--recipe paper)."""
    width: int = 128
    """Width of the hidden layers of the network that poses are searched against (--recipe paper)."""
    layers: int = 10
    """Number of hidden layers of the networks (--recipe paper)."""
    batch_size: int | None = None
    """Images per training step (--recipe paper; default: 10, or 5 with --zdim)."""
    learning_rate: float = 1e-4
    """Learning rate of Adam; the paper used 5e-4 for noiseless images (--recipe paper)."""
    final_epochs: int | None = None
    """Epochs at the final poses, of a larger network (default: 15) or with --zdim of the same one (default: 10)."""
    final_width: int = 500
    """Width of the hidden layers of the network trained at the final poses (--recipe paper, --zdim 0)."""


@dataclass(frozen=True)
class AbinitConfig:
    """Estimate a map and every particle's pose from the images, without any known poses.

    Several initial models are made from random starts, each by expectation-maximisation over all poses of a few
    thousand images at low resolution; the one that explains held-out images best is refined. Poses and maps then
    alternate, in half sets and over a growing radius in Fourier space: branch and bound over all rotations and shifts,
    and finally Gauss-Newton at full resolution. With --zdim each image is compared at every pose with all states of a
    linear subspace, and its latent point is averaged over its possible poses. The paper recipe is that of the
    publication (cryoDRGN, ICLR 2020), for comparison: one network is trained at random poses first, then at poses that
    are searched against it, which is slow. Poses in the particle file are used only to determine the contrast
    (--invert auto). Images do not show the hand of the map: it may be the mirror image.

    Writes a run folder with particles.star (the estimated poses; all other columns are kept), consensus/ (map, half
    maps, FSC) and report.html, which says whether to trust the map: whether independent starts agree.
    """

    particles: tyro.conf.Positional[Path]
    """A particle file (.star, .cs, .txt, .mrcs), prepared into RUN/particles, or a particle store from `prepare`."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Run folder to write."""
    recipe: Literal["default", "paper"] = "default"
    """Algorithm: default, or that of the publication (paper), for comparison."""
    paper: Annotated[PaperConfig, tyro.conf.arg(name="")] = field(default_factory=PaperConfig)
    """Options of --recipe paper."""
    zdim: int = 0
    """Dimension of the latent space estimated along with the poses, 0 to 4: 0 for rigid particles, 2 for flexible."""
    starts: int = 3
    """Number of random starts; up to twice as many are made if no two of them agree."""
    start_images: int = 2000
    """Images used for each start, chosen at random."""
    start_radius: int = 10
    """Radius of the starts in Fourier space, 4 to 32 Fourier pixels: details down to box / radius pixels."""
    search_radius: int = 20
    """Largest radius of the searches, in Fourier pixels; refinements use all shells on which the half maps agree."""
    search_rounds: int = 3
    """Maximum number of searches, the last of all particles, the others of 10,000; --zdim adds two."""
    polish_rounds: int = 3
    """Maximum number of refinements of all poses by Gauss-Newton; they stop when the half maps improve no further."""
    shift_range: float = 0.08
    """Largest distance of a particle from its image's centre along each axis, as a fraction of the box, up to 0.25."""
    images: Annotated[ImageSource, tyro.conf.arg(name="")] = field(default_factory=ImageSource)
    """Where the images are and how to read them."""
    seed: int = 0
    """Seed of all random numbers, and of the half sets if the particles do not have any."""
    device: str = "auto"
    """Where to search poses: cpu, cuda, cuda:1 or auto (a GPU if there is one). Starts are made on the CPU."""
    resume: bool = False
    """Continue an interrupted run after its last finished start, round or checkpoint."""
    overwrite: bool = False
    """Replace an existing run."""
