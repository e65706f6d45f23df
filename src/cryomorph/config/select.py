"""What `cryomorph select` may be asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from cryomorph.config.errors import InputError

SUFFIXES = (".star", ".cs", ".txt", ".npy")
CRITERIA = ("cluster", "component", "state", "range", "lasso", "max_norm", "min_norm", "nearest", "index")


@dataclass(frozen=True)
class SelectConfig:
    """Choose particles of a run, and write them for RELION, cryoSPARC or the next training.

    A particle is chosen where all criteria hold; with --any, where one of them does. --invert takes all the others
    instead, and --minus takes particles off at the end. Every column of the particle file is kept, and its order.
    Particles are numbered from 0, in the order of the run's particle file.

    Coordinates are named z1, z2 (the latent's own), pc1 (its principal components), umap1 and umap2 (from `cryomorph
    analyze`), and volume-pc1 (principal components of the maps, from `cryomorph landscape`).
    """

    run: Positional[Path]
    """The run folder that `cryomorph train` wrote."""
    output: Annotated[Path, arg(aliases=["-o"])]
    """A .star or .cs particle file, with the particles' numbers beside it as .txt; or the numbers alone: .txt, .npy."""
    cluster: tuple[int, ...] = ()
    """Particles of these k-means clusters of `cryomorph analyze`."""
    component: tuple[int, ...] = ()
    """Particles of these components of the Gaussian mixture of `cryomorph analyze`."""
    state: tuple[int, ...] = ()
    """Particles of these states of `cryomorph landscape`."""
    analysis: Annotated[Path | None, arg(aliases=["--from"])] = None
    """Folder of the analysis that clusters, components and UMAP are taken from (default: RUN/analysis)."""
    landscape: Path | None = None
    """Folder of the landscape that states and volume-pc are taken from (default: RUN/landscape)."""
    range: Annotated[tuple[tuple[str, float, float], ...], UseAppendAction, arg(metavar="NAME LOW HIGH")] = ()
    """Particles whose coordinate lies from LOW to HIGH, both included, such as `pc1 -1 inf`; several make a box."""
    lasso: Path | None = None
    """Particles inside this polygon: a .txt or .npy table with a corner a row, two columns."""
    lasso_in: tuple[str, ...] = ("umap",)
    """The two coordinates of the lasso, such as `pc1 pc3`; umap, pc, z or volume-pc alone means its first two."""
    max_norm: float | None = None
    """Particles whose |z|, the distance from the latent's origin, is at most this."""
    min_norm: float | None = None
    """Particles whose |z| is at least this."""
    nearest: int | None = None
    """This many particles, the nearest in latent space to --to-particle or --to-point."""
    to_particle: int | None = None
    """Number of the particle that --nearest starts from; it is one of those chosen."""
    to_point: tuple[float, ...] = ()
    """Latent point that --nearest starts from, a number for each latent coordinate."""
    index: tuple[Path, ...] = ()
    """Particles that one of these files lists: .txt with a number a line, or .npy."""
    minus: tuple[Path, ...] = ()
    """Particles that one of these files lists are not chosen, whatever else holds."""
    any: bool = False
    """Choose particles that meet one of the criteria, not all of them."""
    invert: bool = False
    """Choose the particles that would not be chosen otherwise (but never those of --minus)."""
    original_poses: bool = False
    """Write the particle file's own poses where the run refined them."""
    datadir: Path | None = None
    """Folder of the images, where a .star is made for a cryoSPARC run (default: where training found them)."""
    overwrite: bool = False
    """Replace files that are there already."""

    def __post_init__(self) -> None:
        if self.output.suffix not in SUFFIXES:
            raise InputError(f"-o {self.output}: expected a name that ends in {', '.join(SUFFIXES)}")
        if all(getattr(self, name) in (None, ()) for name in CRITERIA):
            options = ", ".join(f"--{name.replace('_', '-')}" for name in CRITERIA)
            raise InputError(f"nothing says which particles to select: give one or more of {options}")
        if self.nearest is not None and self.nearest < 1:
            raise InputError(f"--nearest {self.nearest}: expected 1 or more")
        if (self.to_particle is not None) + bool(self.to_point) != (self.nearest is not None):
            raise InputError("--nearest goes with one of --to-particle and --to-point: how many, and near what")
        for name, low, high in self.range:
            if not low <= high:
                raise InputError(f"--range {name} {low:g} {high:g}: expected the lower end first")
