"""What other commands left in a run, a landscape and a comparison; left out where they are not of the run's model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from cryomorph.analysis.comparison import ComparisonSummary
from cryomorph.analysis.particle_columns import STATES, read_labels
from cryomorph.config.errors import InputError
from cryomorph.diagnostics.check import Verdict
from cryomorph.io.mrc import read_map
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import mirror

FACTS = "landscape.json"
COMPARISON = "compare"


@dataclass(frozen=True)
class Absent:
    """Why something is not there, or not used, and the command that makes it."""

    reason: str
    verdict: Verdict


@dataclass(frozen=True)
class FoundLandscape:
    """The part of RUN/landscape that the report shows.

    `states` holds each particle's state, `sketch` counts the maps of each, `means` are the states' mean maps, not
    mirrored. `suggested` states are those that the maps themselves fall into; `clear` says whether they stand out.
    `r2` is the held-out R^2 of coordinates, measured on `held_out` maps.
    """

    states: Int[np.ndarray, " n"]
    sketch: tuple[int, ...]
    means: Float32[Tensor, "m z y x"]
    pixel_A: float
    suggested: int
    clear: bool
    r2: float
    held_out: int

    @property
    def count(self) -> int:
        """Number of states."""
        return len(self.sketch)

    @property
    def particles(self) -> list[int]:
        """Particles in each state."""
        return np.bincount(self.states[self.states >= 0], minlength=self.count).tolist()


def read_landscape(run: RunFolder) -> FoundLandscape | Absent:
    """The run's landscape, or why there is none that can be used."""
    folder, again = run.path / "landscape", f"`cryomorph landscape {run.path}`"
    if not (folder / FACTS).is_file():
        return Absent(f"This run has no landscape yet: {again} makes one, and `analyze` then shows its states.", "info")
    if older_than_model(folder / FACTS, run):
        return Absent(f"{folder} is older than the model and was not used: make it again with {again}.", "warning")
    try:
        return _landscape(folder, run)
    except (InputError, KeyError, TypeError, ValueError) as error:
        return Absent(f"{folder} cannot be read ({error}) and was not used: make it again with {again}.", "warning")


def read_comparison(run: RunFolder) -> ComparisonSummary | Absent:
    """What a comparison with another run found, or why there is none that can be used."""
    folder = run.path / COMPARISON
    again = f"`cryomorph compare {run.path} OTHER_RUN -o {folder}`"
    if not (folder / ComparisonSummary.FILE).is_file():
        return Absent(f"Train a second time with another --seed, then run {again}.", "missing")
    again = f"{again[:-1]} --overwrite`"
    if older_than_model(folder / ComparisonSummary.FILE, run):
        return Absent(f"{folder} is older than the model: run {again}.", "missing")
    try:
        found = ComparisonSummary.read(folder)
    except InputError as error:
        return Absent(f"{error}: run {again}.", "missing")
    n = len(run.latent_mean())
    if n not in found.counts:
        return Absent(f"{folder} is not about this run's {n:,} particles: run {again}.", "missing")
    return found


def older_than_model(path: Path, run: RunFolder) -> bool:
    """Whether a file was written before the run's model."""
    return path.stat().st_mtime < run.model_time


def _landscape(folder: Path, run: RunFolder) -> FoundLandscape:
    facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
    n = len(run.latent_mean())
    if facts["particles"] != n:
        raise InputError(f"it is of {facts['particles']:,} particles, and the run has {n:,}")
    rows = facts["states"]
    maps = [torch.tensor(read_map(folder / "states" / f"state_{state}.mrc")[0]) for state in range(len(rows))]
    mirrored = facts["options"]["flip_hand"]
    return FoundLandscape(
        read_labels(folder / STATES, run, made_by=f"cryomorph landscape {run.path}"),
        tuple(int(row["maps"]) for row in rows),
        torch.stack([mirror(volume) for volume in maps] if mirrored else maps),
        float(facts["pixel_A"]),
        int(facts["suggested"]["states"]),
        bool(facts["suggested"]["clear"]),
        float(facts["r2"]),
        int(facts["held_out_maps"]),
    )
