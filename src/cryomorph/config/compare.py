"""Options of `cryomorph compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from cryomorph.config.errors import InputError
from cryomorph.config.minimum import check_minimum


@dataclass(frozen=True)
class CompareConfig:
    """Agreement of two runs on the same particles: clusters, neighbourhoods, coordinates and maps.

    Runs on parts of one set are compared on the particles that both have.
    """

    run_a: Positional[Path]
    """A run folder."""
    run_b: Positional[Path]
    """Another run on the same particles, of any method."""
    output: Annotated[Path | None, arg(aliases=["-o"])] = None
    """Folder for report.html and compare.json (default: the table is printed and nothing is written)."""
    clusters: Annotated[int, arg(aliases=["-k"])] = 20
    """Number of k-means clusters whose membership is compared."""
    points: int = 10
    """Number of particles, spread over the latent space, at which the maps of both runs are compared; 0 for none."""
    seed: int = 0
    """Random seed of the clusters and the sampled particles."""
    overwrite: bool = False
    """Replace an existing report."""

    def __post_init__(self) -> None:
        check_minimum(self, clusters=2, points=0, seed=0)
        if self.points == 1:
            raise InputError("--points 1: expected 2 or more, so that maps can be distinguished, or 0 for none")
