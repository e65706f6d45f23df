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
    """How far two runs on the same particles agree: clusters, neighbourhoods, coordinates and maps.

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
    """Number of particles at which both runs' maps are compared, spread over the landscape; 0 compares no maps."""
    seed: int = 0
    """Seed of the clusters and of the particles that are drawn."""
    overwrite: bool = False
    """Replace a report that is there already."""

    def __post_init__(self) -> None:
        check_minimum(self, clusters=2, points=0, seed=0)
        if self.points == 1:
            raise InputError("--points 1: expected 2 or more, so that a map can be told from another, or 0 for no maps")
