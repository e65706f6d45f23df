"""Options of `cryomorph demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class DemoConfig:
    """Simulate a hinge protein, prepare, reconstruct, fit, analyse and score it, and say where to look."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("demo")
    """Folder for everything that the demo makes."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 5000
    """How many particles to simulate."""
    box: int = 32
    """Image size in pixels."""
    pixel_A: float = 8.0
    """Pixel size in Angstrom."""
    zdim: int = 4
    """Number of components of the linear subspace."""
    seed: int = 0
    """Seed of everything."""
    overwrite: bool = False
    """Replace a demo that is there already."""
