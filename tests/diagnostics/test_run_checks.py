"""Checks of a run: verdicts on known numbers, at their bounds and on either side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomorph.analysis.comparison import ComparisonSummary, MapAgreementSummary
from cryomorph.analysis.landscape.files import LandscapeSummary
from cryomorph.analysis.latent import outliers
from cryomorph.analysis.selection_map import Agreement
from cryomorph.analysis.state_maps import StateMap
from cryomorph.diagnostics.abinit import no_starts_check, starts_check
from cryomorph.diagnostics.check import NOTHING, Check, named
from cryomorph.diagnostics.comparison import clusters_check, comparison_checks, latents_check, maps_check, poses_check
from cryomorph.diagnostics.half_sets import half_sets_check
from cryomorph.diagnostics.landscape import one_motion_check, placement_check, rare_states_check, states_check
from cryomorph.diagnostics.latent_space import outliers_check, posterior_width_check
from cryomorph.diagnostics.left_in_run import Absent
from cryomorph.diagnostics.maps import cluster_maps_check, smallest_check, state_maps_check
from cryomorph.diagnostics.run_checks import RunResults, run_checks
from cryomorph.diagnostics.training import course, held_out_check, skipped_steps_check
from cryomorph.diagnostics.training_record import TrainingRecord
from cryomorph.report.analyze.trust import trust_section
from cryomorph.report.page import Report, Table, note_of, render_report, summarise
from cryomorph.runs.measurements import ModelMeasurements
from cryomorph.volumes.fsc import FscReport

ABSENT = Absent("`cryomorph landscape run`", "info")


def landscape(r2: float = 0.999) -> LandscapeSummary:
    states = np.repeat([0, 1, 2], [200, 90, 10])
    return LandscapeSummary(states, (9, 5, 2), torch.zeros(3, 8, 8, 8), 4.0, 3, clear=True, r2=r2, held_out=64)


def mapped(decoded: float, consensus: float) -> StateMap:
    curve = torch.linspace(1, 0, 8)
    means = {"state_map": decoded, "ceiling": 0.95, "consensus": consensus}
    agreement = {name: Agreement(curve, 10.0, mean) for name, mean in means.items()}
    return StateMap(torch.zeros(16, 16, 16), FscReport(2.0, 16, curve), agreement, {})


def record(held_out: list[float]) -> TrainingRecord:
    epochs = len(held_out)
    return TrainingRecord(
        np.arange(1, epochs + 1), np.linspace(2, 1, epochs), np.array(held_out), np.ones((epochs, 2)), np.ones(epochs)
    )


def compared(r2: tuple[float, float], *, same_points: bool = False, matched: int = 9, turn: float = 0.1):
    maps = MapAgreementSummary(matched, 10, 0.99, 0.8)
    return ComparisonSummary((400, 400), r2, 0.8, 0.85, maps, turn, same_points)


@pytest.mark.parametrize(
    ("values", "verdict", "said"),
    [
        ([0.9, 0.6], "good", "Both components are reproducible between half sets of the particles."),
        ([0.9, 0.5], "good", "Both components"),
        ([0.9, 0.4, 0.2], "warning", "1 of 3 components is reproducible"),
        ([0.9, 0.4, 0.2], "warning", "do not interpret components 2 and 3."),
        ([0.1], "warning", "0 of 1 components are reproducible between half sets of the particles: do not interpret"),
        (None, "missing", "`cryomorph train linear`"),
    ],
)
def test_half_sets(values, verdict, said):
    """The bound itself, 0.5, counts as reproducible, here as in the log of `train linear` and in the figure."""
    check = half_sets_check(None if values is None else np.array(values), start=False)
    assert check.verdict == verdict and said in check.meaning
    assert check.value == (NOTHING if values is None else ", ".join(f"{value:.2f}" for value in values))


def test_half_sets_of_a_linear_start_are_said_to_be_of_the_start():
    check = half_sets_check(np.array([0.9, 0.1]), start=True)
    assert check.name.endswith("(linear start)")
    assert "1 of 2 components of the linear start is reproducible" in check.meaning and "trained once" in check.meaning
    assert half_sets_check(np.linspace(1, 0, 21), start=True).value == "lowest 0.00, median 0.50"


@pytest.mark.parametrize(
    ("held", "verdict", "value"),
    [
        ([2.0, 1.1, 1.0, 1.0], "good", "1.0000 after epoch 4"),
        ([2.0, 1.0, 1.2], "warning", "1.2000 after epoch 3; lowest 1.0000 after epoch 2"),
        ([2.0, 1.5, 1.0], "info", "1.0000 after epoch 3"),
        ([np.nan] * 3, "missing", NOTHING),
    ],
)
def test_held_out_loss(held, verdict, value):
    check = held_out_check(record(held))
    assert (check.verdict, check.value) == (verdict, value)
    assert held_out_check(None).verdict == "missing"


@pytest.mark.parametrize(
    ("held_out", "said", "verdict"),
    [
        ([2.1, 1.6, 1.5, 1.4, 1.399], "Held-out loss has levelled off", "good"),
        ([2.0, 1.8, 1.6, 1.4, 1.0], "Held-out loss is still changing: last epoch 40% of its range", "info"),
        ([2.0, 1.2, 1.0, 1.1, 1.3], "Held-out loss has risen since epoch 3", "warning"),
        ([2.0], "Held-out loss has too few epochs to compare", "info"),
        ([np.nan] * 5, "Training loss is still changing: last epoch 50% of its range", "info"),
    ],
)
def test_how_a_training_ended(held_out, said, verdict):
    """Without held-out particles only the epochs of the last band compare: 1.4, 1.3, 1.2 here."""
    count = len(held_out)
    loss, band = np.array([2.0, 1.5, 1.4, 1.3, 1.2])[:count], np.array([16.0, 24.0, 32.0, 32.0, 32.0])[:count]
    found = TrainingRecord(np.arange(1, count + 1), loss, np.array(held_out), np.ones((count, 1)), band)
    name, text, found_verdict = course(found)
    assert (f"{name} {text}", found_verdict) == (said, verdict)


def test_skipped_steps():
    assert skipped_steps_check(record([1.0])).verdict == "good"
    check = skipped_steps_check(replace(record([1.0]), skipped=3))
    assert check.verdict == "warning" and check.meaning.startswith("3 training steps had non-finite")
    assert skipped_steps_check(None).verdict == "missing"


def test_a_posterior_as_wide_as_the_prior_is_named():
    assert posterior_width_check(np.full((5, 3), 0.9)).verdict == "good"
    check = posterior_width_check(np.array([[0.1, 0.2, 0.3, 1.0]] * 5))
    assert check.verdict == "warning" and "about component 4: the posterior" in check.meaning
    assert check.value == "0.10, 0.20, 0.30, 1.00"


def test_many_outliers_are_a_warning():
    z = np.random.default_rng(3).normal(size=(300, 3)) * [0.5, 0.4, 0.1]
    z[7] = [60, 0, 0]
    few = outliers_check(outliers(z, 8.0))
    assert few.value == "1 particle (0.3%)" and few.verdict == "info"
    z[:20] = [60, 0, 0]
    assert outliers_check(outliers(z, 8.0)).verdict == "warning"
    assert outliers_check(outliers(z, 1e6)).value == "0 particles (0.0%)"


@pytest.mark.parametrize(("r2", "verdict"), [(0.98, "good"), (0.985, "good"), (0.979, "warning")])
def test_coordinates_in_volume_space_have_the_bound_of_the_landscape(r2, verdict):
    check = placement_check(r2, 64)
    assert check.verdict == verdict and check.value == f"{r2:.4f} (64 maps)"


def test_well_separated_states_are_claimed_only_where_the_maps_suggest_them():
    apart = states_check(3, 3, clear=True, again="cryomorph landscape run")
    assert (apart.verdict, apart.meaning) == ("good", "The maps fall into 3 well-separated states.")
    other = states_check(3, 2, clear=True, again="cryomorph landscape run")
    assert other.verdict == "info" and "`cryomorph landscape run --states 2`" in other.meaning
    continuum = states_check(3, 3, clear=False, again="cryomorph landscape run")
    assert (
        continuum.verdict == "info" and "continuum" in continuum.meaning and "well-separated" not in continuum.meaning
    )


def test_rare_states_are_named():
    rare = rare_states_check([600, 390, 10], 1000)
    assert rare.headline and rare.value == "state 2 (10 particles)"
    assert not rare_states_check([600, 380, 20], 1000).headline


@pytest.mark.parametrize(
    ("explained", "noise", "discrete", "one"),
    [(0.95, 0.0, False, True), (0.5, 0.45, False, True), (0.7, 0.1, False, False), (0.95, 0.0, True, False)],
)
def test_one_motion_is_claimed_where_a_curve_explains_all_that_is_not_noise(explained, noise, discrete, one):
    check = one_motion_check(explained, noise, discrete=discrete)
    assert ("one degree of freedom" in check.meaning) is one is check.headline
    assert check.verdict == "info"


def test_cluster_maps_have_no_bound():
    check = cluster_maps_check([10.0, 30.0, 20.0], 12.5, pixel_A=4.0)
    assert "20.0 Å" in check.value and "10.0 to 30.0" in check.value and "12.5 Å" in check.expected
    assert check.verdict == "info"
    assert cluster_maps_check([], 12.5, pixel_A=4.0).verdict == "missing"
    ends = cluster_maps_check([8.0, 8.0], 8.0, pixel_A=4.0)
    assert ends.value == "agree to 8.0 Å or better (FSC 0.5; all of 2 clusters)" and "8.0 Å or better" in ends.expected


def test_state_maps_must_agree_better_than_the_consensus():
    counts = landscape().particles
    good = state_maps_check({0: mapped(0.9, 0.8), 2: mapped(0.7, 0.6)}, counts)
    assert good.verdict == "good"
    assert "mean FSC 0.80, agree to 10.0 Å" in good.value and "consensus 0.70" in good.value
    bad = state_maps_check({0: mapped(0.9, 0.8), 2: mapped(0.6, 0.6)}, counts)
    assert bad.verdict == "warning" and "For state 2 the" in bad.meaning
    assert "--no-reconstruct" in state_maps_check({}, counts).meaning
    none = state_maps_check({}, [63, 10])
    assert none.verdict == "missing" and "64 particles" in none.meaning


def test_the_smallest_state():
    few = smallest_check([200, 90, 10], "state", {2: mapped(0.5, 0.4)})
    assert few.value.startswith("10 particles (state 2), half maps agree to ")
    assert few.verdict == "warning" and "state 2:" in few.meaning
    enough = smallest_check([200, 64], "cluster", {})
    assert enough.verdict == "good" and enough.value == "64 particles (cluster 1)"


@pytest.mark.parametrize(
    ("r2", "same_points", "verdict"),
    [
        ((0.9, 0.85), False, "good"),
        ((0.9, 0.8), False, "info"),
        ((0.9, 0.5), False, "warning"),
        ((0.9, 0.4), False, "warning"),
        ((1.0, 1.0), True, "warning"),
    ],
)
def test_a_second_run(r2, same_points, verdict):
    check = latents_check(compared(r2, same_points=same_points))
    assert check.verdict == verdict
    assert check.value.startswith(f"R² {r2[0]:.2f} (B from A) and {r2[1]:.2f} (A from B); mean FSC")


def test_runs_are_said_to_agree_only_above_their_bounds():
    assert clusters_check(0.8, 0.85).verdict == "good" and clusters_check(0.7, 0.85).verdict == "info"
    assert maps_check(9, 10).verdict == "good" and maps_check(8, 10).verdict == "warning"
    assert poses_check(2.0).verdict == "good" and poses_check(2.1).verdict == "warning"
    assert len(comparison_checks(compared((0.9, 0.9)))) == 4
    assert len(comparison_checks(replace(compared((0.9, 0.9)), maps=None))) == 3


@pytest.mark.parametrize(
    ("likelihood", "agreeing", "verdict", "said"),
    [
        ([41.5, 52.25, 12.0], 2, "good", "2 of 3 independent random starts"),
        ([41.5, 52.25, 12.0], 1, "warning", "No two of 3 random starts"),
        ([0.02, 0.01, -0.01], 3, "warning", "there is no map to trust"),
        ([0.02], 1, "warning", "there is no map to trust"),
        ([40.0], 1, "missing", "only one random start"),
    ],
)
def test_random_starts(likelihood, agreeing, verdict, said):
    check = starts_check(likelihood, agreeing)
    assert check.verdict == verdict and said in check.meaning
    assert no_starts_check().verdict == "missing"


RESULTS = RunResults(
    "cryomorph landscape run",
    None,
    np.array([0.9, 0.4]),
    ModelMeasurements(1.0, 0.9, [1.0], 0.0),
    record([2.0, 1.1, 1.0, 1.0]),
    np.full((5, 2), 0.3),
    outliers(np.random.default_rng(0).normal(size=(50, 2))),
    (30, 20),
    (),
    12.5,
    4.0,
    ABSENT,
    {},
    Absent("Train again.", "missing"),
)


def test_every_check_of_a_run_is_made_once():
    """With or without landscape, training and comparison; what is not there is said not to have been measured."""
    without = run_checks(RESULTS)
    with_all = run_checks(
        replace(RESULTS, reproducibility=np.array([0.9, 0.8]), landscape=landscape(), comparison=compared((0.9, 0.9)))
    )
    for checks in (without, with_all, run_checks(replace(RESULTS, training=None))):
        names = [check.name for check in checks]
        assert len(names) == len(set(names))
        assert all(check.meaning.endswith((".", "`")) for check in checks)
    verdict = {check.name: check.verdict for check in without}
    assert verdict["Reproducibility between half sets (linear start)"] == "warning"
    assert verdict["Landscape"] == "info" and verdict["Agreement with a second run"] == "missing"
    assert {check.name for check in with_all} >= {"Discrete states", "Rare states", "Smallest state"}
    assert not {check.name for check in with_all} & {"Landscape", "Smallest cluster"}


def test_the_panel_shows_every_check_with_its_mark():
    checks = run_checks(RESULTS)
    section = trust_section(checks)
    (table,) = section.blocks
    assert isinstance(table, Table) and len(table.rows) == len(checks) and not any(table.numeric)
    page = render_report(Report("run", (section,)))
    for mark in ("missing", "good", "warning"):
        assert f'<span class="mark {mark}">' in page
    assert "<code>cryomorph landscape run</code>" in page


def test_a_summary_has_warnings_first_and_no_check_that_is_neither_warning_nor_headline():
    checks = [
        Check("A", "1", "2", "good", "Fine."),
        Check("B", "1", "2", "info", "So it is.", headline=True),
        Check("C", "3", "2", "warning", "Beware."),
        Check("D", NOTHING, "2", "missing", "Measure it.", headline=True),
    ]
    assert summarise(checks) == (note_of(checks[2]), note_of(checks[1]), note_of(checks[3]))
    assert [note.text for note in summarise(checks)] == ["C: 3. Beware.", "B: 1. So it is.", "D. Measure it."]


def test_numbers_are_listed_as_one_speaks():
    assert named("component", [2]) == "component 2"
    assert named("component", [1, 2]) == "components 1 and 2"
    assert named("state", [1, 2, 5]) == "states 1, 2 and 5"
