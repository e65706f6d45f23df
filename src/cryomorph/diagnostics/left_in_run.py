"""What other commands left in a run, a landscape and a comparison; left out where they are not of the run's model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryomorph.analysis.comparison import ComparisonSummary
from cryomorph.analysis.landscape.files import FACTS, LandscapeSummary
from cryomorph.config.errors import InputError
from cryomorph.config.shell import command
from cryomorph.diagnostics.check import Verdict
from cryomorph.runs.folder import RunFolder

COMPARISON = "compare"


@dataclass(frozen=True)
class Absent:
    """Why something is not there, or not used, and the command that makes it."""

    reason: str
    verdict: Verdict


def read_landscape(run: RunFolder) -> LandscapeSummary | Absent:
    """The run's landscape, or why there is none that can be used."""
    folder, again = run.path / "landscape", f"`{command('cryomorph', 'landscape', run.path)}`"
    if not (folder / FACTS).is_file():
        return Absent(f"This run has no landscape yet: {again} makes one, and `analyze` then shows its states.", "info")
    if older_than_model(folder / FACTS, run):
        return Absent(f"{folder} is older than the model and was not used: make it again with {again}.", "warning")
    try:
        return LandscapeSummary.read(run)
    except InputError as error:
        return Absent(f"The landscape was not used: {error}.", "warning")


def read_comparison(run: RunFolder) -> ComparisonSummary | Absent:
    """What a comparison with another run found, or why there is none that can be used."""
    folder = run.path / COMPARISON
    again = f"`{command('cryomorph', 'compare', run.path, 'OTHER_RUN', '-o', folder)}`"
    if not (folder / ComparisonSummary.FILE).is_file():
        return Absent(f"Train a second time with another `--seed`, then run {again}.", "missing")
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
