"""The panel on how far to trust a run: verdicts on numbers that are known, by bounds that the code has elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomorph.analysis.selection_map import Agreement
from cryomorph.diagnostics.training_record import TrainingRecord, judged
from cryomorph.report import trust
from cryomorph.report.left_in_run import FoundComparison, FoundLandscape
from cryomorph.report.page import DASH, Note, Report, Table, render_report
from cryomorph.report.states import MappedState
from cryomorph.volumes.fsc import FscReport

ABSENT = Note("`cryomorph landscape run`")


def landscape(r2: float = 0.999) -> FoundLandscape:
    states = np.repeat([0, 1, 2], [200, 90, 10])
    return FoundLandscape(states, (9, 5, 2), torch.zeros(3, 8, 8, 8), 4.0, 3, clear=True, r2=r2, held_out=64)


def mapped(decoded: float, consensus: float) -> MappedState:
    curve = torch.linspace(1, 0, 8)
    means = {"state_map": decoded, "ceiling": 0.95, "consensus": consensus}
    agreement = {name: Agreement(curve, 10.0, mean) for name, mean in means.items()}
    return MappedState(torch.zeros(16, 16, 16), FscReport(2.0, 16, curve), agreement)


def record(held_out: list[float]) -> TrainingRecord:
    epochs = len(held_out)
    return TrainingRecord(
        np.arange(1, epochs + 1), np.linspace(2, 1, epochs), np.array(held_out), np.ones((epochs, 2)), np.ones(epochs)
    )


@pytest.mark.parametrize(
    ("values", "level", "said"),
    [
        ([0.9, 0.6], "good", "All of them"),
        ([0.9, 0.4, 0.2], "warning", "Do not interpret components 2 and 3:"),
        (None, "missing", "`cryomorph train linear`"),
    ],
)
def test_half_sets(values, level, said):
    row = trust.half_sets(None if values is None else np.array(values), start=False)
    assert row.verdict.level == level and said in row.verdict.text
    assert row.value == (DASH if values is None else ", ".join(f"{value:.2f}" for value in values))


def test_half_sets_of_a_linear_start_are_said_to_be_of_the_start():
    row = trust.half_sets(np.array([0.9, 0.1]), start=True)
    assert row.measured.endswith("of the linear start")
    assert "component 2 of the start:" in row.verdict.text and "fitted once" in row.verdict.text
    many = trust.half_sets(np.linspace(1, 0, 20), start=True)
    assert many.value == "10 of 20; lowest 0.00"


def test_checks_that_fail_say_what_to_do():
    rows = trust.checked(judged(1.5, 0.9, [1.0, 0.01], view_r2=-0.03))
    assert [row.verdict.level for row in rows] == ["warning", "good", "good", "good"]
    assert "multiplied by 1.50" in rows[0].verdict.text
    assert rows[3].value == "R² \N{MINUS SIGN}0.03" and rows[3].expected == "at most 0.1"


@pytest.mark.parametrize(
    ("held", "level", "value"),
    [
        ([2.0, 1.1, 1.0, 1.0], "good", "1.0000 after epoch 4"),
        ([2.0, 1.0, 1.2], "warning", "1.2000 after epoch 3; lowest 1.0000 after epoch 2"),
        ([2.0, 1.5, 1.0], "info", "1.0000 after epoch 3"),
        ([np.nan] * 3, "missing", DASH),
    ],
)
def test_held_out_loss(held, level, value):
    row = trust.held_out(record(held))
    assert (row.verdict.level, row.value) == (level, value)
    assert trust.held_out(None).verdict.level == "missing"


def test_the_regressor_is_held_against_the_bound_of_the_landscape():
    assert trust.placed(landscape(0.985)).verdict.level == "good"
    low = trust.placed(landscape(0.975))
    assert low.verdict.level == "warning" and low.value == "0.9750 of 64 maps"
    absent = trust.placed(ABSENT)
    assert absent.verdict == Note(ABSENT.text, "missing") and absent.value == DASH


def test_clusters_are_told_without_a_verdict():
    row = trust.clusters_agree([10.0, 30.0, 20.0], 12.5)
    assert "20.0 Å" in row.value and "10.0 to 30.0" in row.value and "12.5 Å" in row.expected
    assert row.verdict.level == "info"
    assert trust.clusters_agree([], 12.5).verdict.level == "missing"


def test_states_must_say_more_than_the_consensus():
    good = trust.states_agree({0: mapped(0.9, 0.8), 2: mapped(0.7, 0.6)}, landscape())
    assert good.verdict.level == "good"
    assert "mean FSC 0.80, agree to 10.0 Å" in good.value and "consensus 0.70" in good.value
    bad = trust.states_agree({0: mapped(0.9, 0.8), 2: mapped(0.6, 0.6)}, landscape())
    assert bad.verdict.level == "warning" and "state 2 " in bad.verdict.text
    assert trust.states_agree({}, landscape()).verdict.level == "missing"
    assert trust.states_agree({}, ABSENT).verdict.text == ABSENT.text


def test_the_smallest_state():
    few = trust.smallest([200, 90, 10], "state", {2: mapped(0.5, 0.4)})
    assert few.value.startswith("10 particles (state 2), half maps agree to ")
    assert few.verdict.level == "warning" and "state 2:" in few.verdict.text
    enough = trust.smallest([200, 64], "cluster", {})
    assert enough.verdict.level == "good" and enough.value == "64 particles (cluster 1)"


@pytest.mark.parametrize(
    ("r2", "one_latent", "level"),
    [
        ((0.9, 0.85), False, "good"),
        ((0.9, 0.6), False, "info"),
        ((0.9, 0.4), False, "warning"),
        ((1.0, 1.0), True, "warning"),
    ],
)
def test_a_second_run(r2, one_latent, level):
    row = trust.second_run(FoundComparison(r2, (0.99, 0.8), one_latent))
    assert row.verdict.level == level and row.value.startswith(f"R² {r2[0]:.2f} and {r2[1]:.2f}; maps")
    absent = trust.second_run(Note("how", "missing"))
    assert absent.verdict == Note("how", "missing")


def test_the_panel_shows_every_verdict_with_its_mark():
    rows = [trust.placed(ABSENT), trust.placed(landscape(0.99)), trust.placed(landscape(0.1))]
    section = trust.trust_section(rows)
    (table,) = section.blocks
    assert isinstance(table, Table) and len(table.rows) == 3 and not any(table.numeric)
    page = render_report(Report("run", (section,)))
    for mark in ("missing", "good", "warning"):
        assert f'<span class="mark {mark}">' in page
    assert "<code>cryomorph landscape run</code>" in page
