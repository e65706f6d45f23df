"""Particle sets with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryomorph.config.keywords import from_keywords
from cryomorph.config.simulate import SimulateConfig


def simulate(name: str, *, output: str | Path, **options: Any) -> Path:
    """Simulate a particle set; returns its folder, which holds particles.star, particles.mrcs, truth.npz and maps/.

    Args:
        name: `uniform`, `two-hinge` or another set that `cryomorph simulate --help` lists.
        **options: as on the command line, such as `n`, `box`, `snr`, `seed`, `overwrite`.

    Raises:
        InputError: an option that does not exist or makes no sense, or the folder exists.
    """
    from cryomorph.simulation.sets import simulate_set

    return simulate_set(from_keywords(SimulateConfig, {"name": name, "output": output, **options}, call="simulate"))
