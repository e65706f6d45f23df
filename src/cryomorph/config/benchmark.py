"""Options of `cryomorph benchmark`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class BenchmarkConfig:
    """Score runs on a simulated set against its truth."""

    truth: Path
    """The folder of the set, made by `cryomorph simulate`: runs are scored against its truth.npz and maps/."""
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders trained on the particles of that set; without any, only consensus and oracle are scored."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("benchmark.json")
    """JSON file for all scores."""
    pick: int = 100
    """Number of particles, spread over the true coordinate, that are decoded and compared with their true maps."""
    reconstruct: bool = True
    """Also score maps reconstructed from the particles near each latent point; this takes most of the time."""
    overwrite: bool = False
    """Replace a file of scores that exists."""
