"""Options of `cryomorph analyze`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from cryomorph.config.errors import InputError
from cryomorph.config.minimum import check_minimum


@dataclass(frozen=True)
class AnalyzeConfig:
    """Latent space, representative maps and one report.html of a run."""

    run: Positional[Path]
    """The run folder that `cryomorph train` wrote."""
    output: Annotated[Path | None, arg(aliases=["-o"])] = None
    """Where the results go; RUN/analysis if not given."""
    clusters: Annotated[int, arg(aliases=["-k"])] = 20
    """Number of k-means clusters; a map is made at the particle nearest each centre."""
    gmm: int = 5
    """Number of Gaussian mixture components; 0 leaves the mixture out."""
    pcs: int = 2
    """Number of principal components along which maps are made; 0 makes none."""
    pc_points: int = 10
    """Maps along each principal component, evenly spaced from the 5th to the 95th percentile of the particles."""
    umap: bool = True
    """Embed the latent in two dimensions by UMAP; minutes for large sets."""
    umap_neighbours: int = 15
    """Neighbours that UMAP keeps for each particle: fewer show finer, more show coarser structure."""
    umap_min_distance: float = 0.1
    """How close UMAP may put particles to each other."""
    reconstruct: bool = True
    """Also back-project the particles of each cluster: maps that owe nothing to the model."""
    outlier_z: float = 3.0
    """Particles whose |z| lies this many robust standard deviations above the median are listed as outliers."""
    box: int | None = None
    """Box of the maps in voxels, even; the run's own if not given."""
    flip_hand: bool = False
    """Write the mirror image of every map."""
    seed: int = 0
    """Seed of clustering, mixture and UMAP: the same seed gives the same numbers."""

    def __post_init__(self) -> None:
        check_minimum(self, clusters=1, gmm=0, pcs=0, pc_points=2, umap_neighbours=2, seed=0)
        if self.outlier_z <= 0:
            raise InputError(f"--outlier-z {self.outlier_z:g}: expected a positive number, such as 3")
        if not 0 <= self.umap_min_distance < 1:
            raise InputError(f"--umap-min-distance {self.umap_min_distance:g}: expected 0 or more and below 1")
        if self.box is not None and (self.box < 8 or self.box % 2):
            raise InputError(
                f"--box {self.box}: expected an even number of voxels from 8 up, or none for the run's own"
            )
