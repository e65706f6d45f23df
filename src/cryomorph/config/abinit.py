"""What `cryomorph abinit` may be asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cryomorph.config.prepare import ImageSource


@dataclass(frozen=True)
class PaperConfig:
    """The schedule of --recipe paper, and its networks."""

    random_images: int = 10_000
    """Images that the first network is trained on at random poses, before any search (--recipe paper)."""
    searches: int | None = None
    """Passes over the particles in which poses are searched (--recipe paper; default: 4, or 200,000 images)."""
    search_every: int = 1
    """In every how many passes poses are searched; others train at the last ones found (--recipe paper)."""
    width: int = 128
    """Width of the hidden layers of the network that poses are searched against (--recipe paper)."""
    layers: int = 10
    """Number of its hidden layers (--recipe paper)."""
    batch_size: int | None = None
    """Images in a step (--recipe paper; default: 10, or 5 with --zdim)."""
    learning_rate: float = 1e-4
    """Adam's learning rate; the paper has 5e-4 for images without noise (--recipe paper)."""
    final_epochs: int | None = None
    """Passes at the poses found, by a larger network, or with --zdim the same (--recipe paper; default: 15, or 10)."""
    final_width: int = 500
    """Width of the hidden layers of that larger network (--recipe paper, --zdim 0)."""


@dataclass(frozen=True)
class AbinitConfig:
    """Find a map, and every particle's pose, from the images alone.

    Several random starts, each a first map by expectation-maximisation over all poses of a few thousand images at low
    resolution; the one that explains images it has not seen best goes on. Then poses and map in turn, in half sets,
    over a growing band: branch and bound over all rotations and shifts, and at last Gauss-Newton at full resolution.
    With --zdim each image is compared at every pose with all states of a linear subspace, and its latent point is
    averaged over the poses that it may have. The paper recipe is the publication's own (cryoDRGN, ICLR 2020), for
    comparison: one network, trained at random poses first and then at poses that are searched against it, slowly.
    Poses that the particle file may have are used for nothing but the contrast (--invert auto). The hand of the map is
    not known from images: it may be the mirror image.

    Leaves a run with particles.star (the poses found, every other column kept), consensus/ (map, half maps, FSC) and
    report.html, which says whether to trust it: whether independent starts came to the same structure.
    """

    particles: tyro.conf.Positional[Path]
    """A particle file (.star, .cs, .txt, .mrcs), prepared on the fly into RUN/particles, or a store from `prepare`."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Run folder to make."""
    recipe: Literal["default", "paper"] = "default"
    """Schedule: default is ours, paper is that of the publication, for comparison."""
    paper: Annotated[PaperConfig, tyro.conf.arg(name="")] = field(default_factory=PaperConfig)
    """The schedule of --recipe paper."""
    zdim: int = 0
    """Dimension of the latent space found along with the poses, 0 to 4: 0 for rigid particles, 2 where they move."""
    starts: int = 3
    """Random starts. Where no two of them agree, up to twice as many are made."""
    start_images: int = 2000
    """Images that each start is made of, chosen at random."""
    start_band: int = 10
    """Band of the starts in Fourier pixels, 4 to 32: details of box / band pixels."""
    search_band: int = 20
    """Widest band that poses are searched over, in Fourier pixels; refinements use all that half maps agree on."""
    search_rounds: int = 3
    """Searches, at most: they end at the widest band, the last of all particles, others of 10,000; --zdim adds two."""
    polish_rounds: int = 3
    """Refinements of all poses by Gauss-Newton, at most: they end where the half maps gain nothing more."""
    shift_range: float = 0.08
    """How far a particle may lie from its image's centre along each axis, as a fraction of the box, up to 0.25."""
    images: Annotated[ImageSource, tyro.conf.arg(name="")] = field(default_factory=ImageSource)
    """Where the images are and how to take them in."""
    seed: int = 0
    """Seed of all that is random, and of the half sets where neither the particle file nor a store has its own."""
    device: str = "auto"
    """Where to search poses: cpu, cuda, cuda:1 or auto, a GPU where there is one. Starts are made on the CPU."""
    resume: bool = False
    """Go on with a run that was interrupted, after the last start, round or checkpoint that it finished."""
    overwrite: bool = False
    """Replace a run that is there already."""
