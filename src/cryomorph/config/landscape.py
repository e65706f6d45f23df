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
    """States and coordinates of a run in volume space: what its maps say, not its latent points."""

    run: Positional[Path]
    """The run folder that `cryomorph train` wrote."""
    output: Annotated[Path | None, arg(aliases=["-o"])] = None
    """Where the results go; RUN/landscape if not given. A landscape that is there already is replaced."""
    sketch: int = 500
    """Maps that stand for all: at the particles nearest to so many k-means centres (at most a quarter of the
    particles)."""
    states: int = 10
    """Number of discrete states; the report says how many the maps themselves suggest."""
    linkage: Literal["average", "ward"] = "average"
    """Which states merge first: those with the nearest maps on average, which keeps rare states apart, or those that
    add least variance, which makes states of like size."""
    mask: Path | None = None
    """Compare maps within this mask only: an MRC file in the box of the maps. If not given: wherever any map of the
    sketch exceeds half of its maximum, and two voxels around that."""
    box: int | None = None
    """Box of the maps in voxels, even; the run's own, at most 64, if not given: states and motions show at low
    resolution, and a box twice as large takes eight times as long."""
    pcs: int = 10
    """Principal components of the maps to keep, at most: those that hold less than 0.01 % of the variance are left
    out."""
    trajectories: int = 3
    """Number of these components along which maps are written; 0 writes none."""
    pc_points: int = 10
    """Maps along each, evenly spaced from the 5th to the 95th percentile of the particles."""
    pairs: int = 4000
    """Maps decoded at most, beyond the sketch, to learn where each particle lies, 10,000 or fewer; it ends early when
    that is known."""
    umap: bool = True
    """Also embed the maps of the sketch by UMAP."""
    save_maps: bool = False
    """Write the maps of the sketch too, to OUTPUT/maps."""
    flip_hand: bool = False
    """Write the mirror image of every map."""
    device: str = "auto"
    """Device to decode on: cpu, cuda, cuda:1, or auto, which takes a GPU where there is one."""
    seed: int = 0
    """Seed of everything that is drawn at random: the same seed gives the same numbers."""

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
