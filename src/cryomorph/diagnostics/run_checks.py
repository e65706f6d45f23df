"""The checks of a run that the report of `cryomorph analyze` shows. A new check is a function, and a line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cryomorph.analysis.comparison import ComparisonSummary
from cryomorph.analysis.landscape.files import LandscapeSummary
from cryomorph.analysis.latent import Outliers
from cryomorph.analysis.state_maps import StateMap
from cryomorph.diagnostics.check import Check, not_measured
from cryomorph.diagnostics.comparison import EXPECTED_R2, SECOND_RUN, latents_check
from cryomorph.diagnostics.half_sets import half_sets_check
from cryomorph.diagnostics.landscape import placement_check, rare_states_check, states_check
from cryomorph.diagnostics.latent_space import outliers_check, posterior_width_check
from cryomorph.diagnostics.left_in_run import Absent
from cryomorph.diagnostics.maps import cluster_maps_check, smallest_check, state_maps_check
from cryomorph.diagnostics.model import model_checks
from cryomorph.diagnostics.training import held_out_check, skipped_steps_check
from cryomorph.diagnostics.training_record import TrainingRecord
from cryomorph.runs.measurements import ModelMeasurements


@dataclass(frozen=True)
class RunResults:
    """What the checks of a run look at.

    `reproducibility` is None where the method fits no half sets, `linear_start` (the same of the linear model that a
    training started from) where there was none, `training` where nothing was trained by epochs. The resolutions are at
    FSC 0.5: of decoded with reconstructed maps of the clusters (empty where these were not made), and of the consensus,
    whose pixel size is `pixel_A`.
    `state_maps` holds the states that were reconstructed.
    """

    command: str
    """That makes the landscape."""
    reproducibility: Float[np.ndarray, " q"] | None
    linear_start: Float[np.ndarray, " k"] | None
    model: ModelMeasurements
    training: TrainingRecord | None
    relative_std: Float[np.ndarray, "n q"]
    outliers: Outliers
    cluster_counts: Sequence[int]
    cluster_maps_A: Sequence[float]
    consensus_A: float
    pixel_A: float
    landscape: LandscapeSummary | Absent
    state_maps: Mapping[int, StateMap]
    comparison: ComparisonSummary | Absent


def run_checks(found: RunResults) -> tuple[Check, ...]:
    """All checks of a run, in the order of the report."""
    own, start = found.reproducibility, found.linear_start
    return (
        half_sets_check(start if own is None else own, start=own is None and start is not None),
        *model_checks(found.model),
        held_out_check(found.training),
        *([] if found.training is None else [skipped_steps_check(found.training)]),
        posterior_width_check(found.relative_std),
        outliers_check(found.outliers),
        cluster_maps_check(found.cluster_maps_A, found.consensus_A, pixel_A=found.pixel_A),
        *_landscape_checks(found),
        _comparison_check(found.comparison),
    )


def _landscape_checks(found: RunResults) -> tuple[Check, ...]:
    landscape = found.landscape
    if isinstance(landscape, Absent):
        absent = Check("Landscape", "none", "one of this model", landscape.verdict, landscape.reason, headline=True)
        return absent, smallest_check(found.cluster_counts, "cluster", {})
    counts = landscape.particles
    return (
        states_check(landscape.count, landscape.suggested, clear=landscape.clear, again=found.command),
        placement_check(landscape.r2, landscape.held_out),
        state_maps_check(found.state_maps, counts),
        rare_states_check(counts, len(landscape.states)),
        smallest_check(counts, "state", found.state_maps),
    )


def _comparison_check(found: ComparisonSummary | Absent) -> Check:
    if isinstance(found, Absent):
        return not_measured(SECOND_RUN, EXPECTED_R2, found.reason)
    return latents_check(found)
