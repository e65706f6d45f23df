"""Options of `cryomorph select`, and the criteria by which particles are chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from cryomorph.config.errors import InputError

PARTICLE_FILES = (".star", ".cs")
SUFFIXES = (*PARTICLE_FILES, ".txt", ".npy")
CRITERIA = ("where", "cluster", "component", "state", "range", "lasso", "max_norm", "min_norm", "nearest", "index")


@dataclass(frozen=True)
class Criteria:
    """Which particles to choose."""

    where: str | None = None
    """Particles for which this expression holds, such as "state == 4 and rlnDefocusU > 12000". Names are columns of the
    particle file, or results: z1, z1_std, pc1, umap1, cluster, mixture, outlier, state, curve, volume_pc1, contrast,
    norm, half_set. Allowed are and, or, not, comparisons, `in [1, 2]`, arithmetic, and the functions abs, sqrt, exp,
    log, log10, isnan, quantile, startswith, endswith and contains; other names go in `backticks`."""
    cluster: tuple[int, ...] = ()
    """Particles of these k-means clusters of `cryomorph analyze`."""
    component: tuple[int, ...] = ()
    """Particles of these components of the Gaussian mixture of `cryomorph analyze`."""
    state: tuple[int, ...] = ()
    """Particles of these states of `cryomorph landscape`."""
    analysis: Annotated[Path | None, arg(aliases=["--from"])] = None
    """Folder of the analysis that clusters, components and UMAP are taken from (default: RUN/analysis)."""
    landscape: Path | None = None
    """Folder of the landscape that states and volume_pc are taken from (default: RUN/landscape)."""
    range: Annotated[tuple[tuple[str, float, float], ...], UseAppendAction, arg(metavar="NAME LOW HIGH")] = ()
    """Particles whose column lies from LOW to HIGH, both included, such as `pc1 -1 inf`; several make a box."""
    lasso: Path | None = None
    """Particles inside this polygon: a .txt or .npy table with one corner per row, two columns."""
    lasso_in: tuple[str, ...] = ("umap",)
    """The two columns that span the plane of the lasso, such as `pc1 pc3`; umap, pc, z or volume_pc alone means its
    first two."""
    max_norm: float | None = None
    """Particles whose |z|, the distance from the origin of the latent space, is at most this."""
    min_norm: float | None = None
    """Particles whose |z| is at least this."""
    nearest: int | None = None
    """This many particles, the nearest in latent space to --to-particle or --to-point."""
    to_particle: int | None = None
    """Number of the particle that --nearest starts from; it is one of those chosen."""
    to_point: tuple[float, ...] = ()
    """Latent point that --nearest starts from, one number per latent coordinate."""
    index: tuple[Path, ...] = ()
    """Particles that one of these files lists: .txt with one number per line, or .npy."""
    minus: tuple[Path, ...] = ()
    """Exclude the particles that these files list, whatever else holds."""
    any: bool = False
    """Choose particles that meet one of the criteria, not all of them."""
    invert: bool = False
    """Invert the selection; --minus is applied afterwards."""

    def __post_init__(self) -> None:
        if self.nearest is not None and self.nearest < 1:
            raise InputError(f"nearest {self.nearest}: expected 1 or more")
        if (self.to_particle is not None) + bool(self.to_point) != (self.nearest is not None):
            raise InputError("nearest (how many) goes with either to-particle or to-point (near what)")
        for name, low, high in self.range:
            if not low <= high:
                raise InputError(f"range {name} {low:g} {high:g}: expected the lower end first")

    @property
    def empty(self) -> bool:
        """Whether nothing says which particles to choose."""
        return all(getattr(self, name) in (None, ()) for name in CRITERIA)


@dataclass(frozen=True)
class SelectConfig:
    """Choose particles of a run, and write them for RELION, cryoSPARC or the next training.

    A particle is chosen where all criteria hold; with --any, where one of them does. --invert takes all the others
    instead, and --minus takes particles off at the end. Every column of the particle file is kept, and its order.
    Particles are numbered from 0, in the order of the run's particle file.

    Columns are named z1, z2 (latent coordinates), pc1 (their principal components), umap1 and umap2 (from `cryomorph
    analyze`), volume_pc1 (principal components of the maps, from `cryomorph landscape`), or as in the particle file.
    """

    run: Positional[Path]
    """The run folder that `cryomorph train` wrote."""
    output: Annotated[Path, arg(aliases=["-o"])]
    """A .star or .cs particle file, with the particles' numbers in a .txt; or the numbers alone: .txt, .npy."""
    criteria: Annotated[Criteria, arg(name="")] = field(default_factory=Criteria)
    """Which particles."""
    original_poses: bool = False
    """Write the particle file's own poses where the run refined them."""
    datadir: Path | None = None
    """Folder of the images, where a .star is made for a cryoSPARC run (default: where training found them)."""
    overwrite: bool = False
    """Replace files that are there already."""

    def __post_init__(self) -> None:
        if self.output.suffix not in SUFFIXES:
            raise InputError(f"{self.output}: expected a name that ends in {', '.join(SUFFIXES)}")
        if self.criteria.empty:
            options = ", ".join(name.replace("_", "-") for name in CRITERIA)
            raise InputError(f"nothing says which particles to select: give one or more of {options}")
