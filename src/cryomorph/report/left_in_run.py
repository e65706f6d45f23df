"""What other commands left in a run folder: a landscape, a comparison; and whether it is of the run's model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from cryomorph.analysis.particle_columns import STATES, read_labels
from cryomorph.config.errors import InputError
from cryomorph.io.mrc import read_map
from cryomorph.report.page import Note
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import mirror

FACTS = "landscape.json"
COMPARISON = "compare/compare.json"


@dataclass(frozen=True)
class FoundLandscape:
    """The part of RUN/landscape that the report shows.

    `states` holds each particle's state, `sketch` counts the maps of each, `means` are the states' mean maps, not
    mirrored. `suggested` states are those that the maps themselves fall into; `clear` says whether they stand out.
    `r2` of `held_out` maps is the regressor's.
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


@dataclass(frozen=True)
class FoundComparison:
    """The part of RUN/compare/compare.json that the report shows: R^2 of one latent from the other, both ways.

    `maps` is the mean FSC of both runs' maps at the same particles, and at different ones.
    """

    r2: tuple[float, float]
    maps: tuple[float, float] | None
    one_latent: bool


def read_landscape(run: RunFolder) -> FoundLandscape | Note:
    """The run's landscape, or why there is none to be used and how to get one."""
    folder, again = run.path / "landscape", f"`cryomorph landscape {run.path}`"
    if not (folder / FACTS).is_file():
        return Note(f"No discrete states were looked for: {again} finds them, `analyze` then shows them.")
    problem = _outdated(folder / FACTS, run)
    if problem:
        return Note(f"{folder} {problem} and is not used: make it again with {again}.", "warning")
    try:
        return _landscape(folder, run)
    except (InputError, KeyError, ValueError) as error:
        return Note(f"{folder} cannot be read ({error}) and is not used: make it again with {again}.", "warning")


def read_comparison(run: RunFolder) -> FoundComparison | Note:
    """What a comparison with another run found, or why there is none to be used and how to get one."""
    path, again = run.path / COMPARISON, f"`cryomorph compare {run.path} OTHER_RUN -o {run.path / 'compare'}`"
    if not path.is_file():
        return Note(f"Train a second time with another seed, then {again}.", "missing")
    problem = _outdated(path, run)
    if problem:
        return Note(f"{path.parent} {problem}: {again} --overwrite.", "missing")
    try:
        facts = json.loads(path.read_text())
        n = len(run.latent_mean())
        if n not in (facts["particles_a"], facts["particles_b"]):
            return Note(f"{path.parent} is not about this run's {n:,} particles: {again} --overwrite.", "missing")
        maps = facts.get("maps")
        return FoundComparison(
            (float(facts["latent_r2"]["b_from_a"]), float(facts["latent_r2"]["a_from_b"])),
            None if maps is None else (float(maps["mean_fsc"]), float(maps["others_mean_fsc"])),
            bool(facts["same_latent_points"]),
        )
    except (KeyError, ValueError) as error:
        return Note(f"{path} cannot be read ({error}): {again} --overwrite.", "missing")


def _outdated(path: Path, run: RunFolder) -> str:
    """That a file was written before the run's model, in words; nothing where it was not."""
    return "is older than the model" if path.stat().st_mtime < run.model_time else ""


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
