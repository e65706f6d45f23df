"""What `cryomorph benchmark` may be asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class BenchmarkConfig:
    """Score runs on a simulated set against its truth."""

    truth: Path
    """The set's folder, made by `cryomorph simulate`: its truth.npz and maps/ are what runs are scored against."""
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders trained on that set's particles; without any, only the consensus and the oracle are scored."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("benchmark.json")
    """JSON file for all scores."""
    pick: int = 100
    """How many particles, spread over the true coordinate, are decoded and compared with their own truth."""
    reconstruct: bool = True
    """Beside the decoder's maps, score maps back-projected from the particles near each latent: the slowest part."""
