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
    """Output folder (default: RUN/analysis)."""
    clusters: Annotated[int, arg(aliases=["-k"])] = 20
    """Number of k-means clusters; a map is decoded at the particle nearest to each centre."""
    gmm: int = 5
    """Number of Gaussian mixture components; 0 skips the mixture."""
    pcs: int = 2
    """Number of principal components along which maps are decoded; 0 for none."""
    pc_points: int = 10
    """Maps along each principal component, evenly spaced from the 5th to the 95th percentile of the particles."""
    umap: bool = True
    """Embed the latent space in two dimensions by UMAP; takes minutes for large sets."""
    umap_neighbours: int = 15
    """Number of neighbours of each particle in UMAP: fewer emphasise fine structure, more coarse structure."""
    umap_min_distance: float = 0.1
    """Minimum distance between particles in the UMAP plane."""
    reconstruct: bool = True
    """Also back-project the particles near each cluster centre: maps that do not depend on the decoder."""
    outlier_z: float = 3.0
    """Particles whose |z| is more than this many robust standard deviations above the median are listed as outliers."""
    box: int | None = None
    """Box of the maps in voxels, even (default: the run's own)."""
    flip_hand: bool = False
    """Write the mirror image of every map."""
    seed: int = 0
    """Random seed of clustering, mixture and UMAP."""

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
