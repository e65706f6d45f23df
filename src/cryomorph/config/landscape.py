"""Options of `cryomorph landscape`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from cryomorph.config.errors import InputError
from cryomorph.config.minimum import check_minimum

LEAST_FOR_UMAP = 10  # points

MOST_PAIRS = 10_000


@dataclass(frozen=True)
class LandscapeConfig:
    """Discrete states and continuous coordinates of a run in volume space, from its maps, not its latent points."""

    run: Positional[Path]
    """The run folder that `cryomorph train` wrote."""
    output: Annotated[Path | None, arg(aliases=["-o"])] = None
    """Output folder (default: RUN/landscape). An existing landscape is replaced."""
    sketch: int = 500
    """Number of representative maps, decoded at the particles nearest to k-means centres (at most a quarter of the
    particles)."""
    states: int = 10
    """Number of discrete states; the report says how many the maps themselves suggest."""
    linkage: Literal["average", "ward"] = "average"
    """Linkage of the hierarchical clustering: average distance between maps, which preserves rare states, or Ward's
    criterion, which favours states of similar size."""
    mask: Path | None = None
    """Compare maps only within this mask, an MRC file of any box and pixel size (default: where any representative map
    exceeds half of its maximum, extended by two voxels)."""
    box: int | None = None
    """Box of the maps in voxels, even (default: the run's own, at most 64): states and motions are visible at low
    resolution, and a box twice as large takes eight times as long."""
    pcs: int = 10
    """Maximum number of principal components of the maps; those with less than 0.01 % of the variance are omitted."""
    trajectories: int = 3
    """Number of these components along which maps are written; 0 for none."""
    pc_points: int = 10
    """Maps along each, evenly spaced from the 5th to the 95th percentile of the particles."""
    pairs: int = 4000
    """Maximum number of additional maps, up to 10,000, decoded to predict the coordinates of all particles; fewer are
    decoded if the prediction is good enough."""
    umap: bool = True
    """Also embed the representative maps by UMAP."""
    save_maps: bool = False
    """Also write the representative maps, to OUTPUT/maps."""
    flip_hand: bool = False
    """Write the mirror image of every map."""
    device: str = "auto"
    """Device for decoding: cpu, cuda, cuda:1, or auto (a GPU if there is one)."""
    seed: int = 0
    """Random seed."""

    def __post_init__(self) -> None:
        check_minimum(self, sketch=2, states=1, pcs=1, trajectories=0, pc_points=2, pairs=16, seed=0)
        if self.umap and self.sketch < LEAST_FOR_UMAP:
            raise InputError(
                f"--sketch {self.sketch}: UMAP needs {LEAST_FOR_UMAP} maps or more; give so many, or --no-umap"
            )
        if self.pairs > MOST_PAIRS:  # the spline through them is dense: 0.8 GB at 10,000
            raise InputError(f"--pairs {self.pairs}: expected {MOST_PAIRS} or fewer")
        if self.states > self.sketch:
            raise InputError(
                f"--states {self.states}: there are only {self.sketch} maps to cluster; expected at most that many, or "
                "a larger --sketch"
            )
        if self.box is not None and (self.box < 8 or self.box % 2):
            raise InputError(
                f"--box {self.box}: expected an even number of voxels from 8 up, or none for the run's own"
            )
