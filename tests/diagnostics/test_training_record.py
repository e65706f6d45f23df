"""A training by epoch, from its metrics.jsonl."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cryomorph.diagnostics.training_record import (
    linear_objective,
    read_training,
    training_record,
)
from cryomorph.runs.folder import RunFolder


def row(epoch, step, **values):
    return {"stage": "joint", "epoch": epoch, "step": step, **values}


ROWS = [
    {"stage": "linear", "step": 1, "log_likelihood": 5.0},
    row(1, 50, band=16.0, nll=2.0, kl=[1.0, 0.0], images=100),
    row(1, 75, band=16.0, nll=1.0, kl=[2.0, 0.4], images=50, skipped=1, skipped_images=[3.0] * 25),
    {"stage": "epoch", "epoch": 1, "held_out": 1.9},
    {"stage": "poses", "round": 1, "rotation_deg_prior": 3.0},
    row(2, 50, band=24.0, nll=0.9, kl=[3.0, 0.1], images=100),
    row(2, 50, band=24.0, learning_rate=0.1),
    {"stage": "epoch", "epoch": 2, "held_out": float("nan")},
]


def test_an_epoch_is_the_average_over_its_images():
    """(100 * 2 + 25 * 1) / 125: the images of steps that were left out do not count."""
    record = training_record(ROWS)
    assert record is not None
    np.testing.assert_array_equal(record.epoch, [1, 2])
    np.testing.assert_allclose(record.loss, [225 / 125, 0.9])
    np.testing.assert_allclose(record.kl, [[(100 * 1 + 25 * 2) / 125, 25 * 0.4 / 125], [3.0, 0.1]])
    np.testing.assert_array_equal(record.held_out, [1.9, np.nan])
    assert record.skipped == 1
    assert [row["rotation_deg_prior"] for row in record.poses] == [3.0]


def test_the_epoch_before_which_the_band_grew_is_named():
    record = training_record(ROWS)
    assert record is not None
    assert record.band_grew_at == [2]
    plain = training_record([{k: v for k, v in given.items() if k != "band"} for given in ROWS])
    assert plain is not None and plain.band_grew_at == []


def test_what_a_resumed_run_did_twice_counts_once_as_it_was_done_last():
    again = training_record([*ROWS, row(2, 50, band=24.0, nll=0.7, kl=[3.0, 0.1], images=100)])
    assert again is not None
    np.testing.assert_allclose(again.loss, [1.8, 0.7])


def test_a_run_without_epochs_has_no_record_and_a_missing_file_no_rows(tmp_path):
    assert training_record(ROWS[:1]) is None
    assert RunFolder(tmp_path).metrics() == []


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(given) for given in ROWS) + '\n{"stage": "jo')
    rows = RunFolder(tmp_path).metrics()
    assert [given["stage"] for given in rows] == [given["stage"] for given in ROWS]


def test_the_linear_objective_tells_each_step_once():
    twice = [{"stage": "linear", "step": step, "log_likelihood": value} for step, value in ((1, 5.0), (2, 6), (2, 7))]
    np.testing.assert_array_equal(linear_objective(twice), [-5, -7])
    assert linear_objective(ROWS) is None


@pytest.mark.parametrize(
    "line", ['{"stage": "joint", "epoch": 1, "nll": 2.0}', '{"stage": "poses"}', '{"stage": "epoch"}']
)
def test_a_damaged_record_is_left_out_and_said(tmp_path, capsys, line):
    rows = [json.dumps(given) for given in ROWS]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*rows, "[1, 2]", line]) + "\n")
    found, whole = read_training(RunFolder(tmp_path)), training_record(ROWS)
    assert found is not None and whole is not None
    np.testing.assert_array_equal(found.loss, whole.loss)
    said = f"metrics.jsonl: 2 of {len(rows) + 2} lines cannot be read, the first is {len(rows) + 1}: they are left out"
    assert said in capsys.readouterr().err


def test_records_that_do_not_go_together_are_left_out_and_said(tmp_path, capsys):
    rows = [row(1, step, nll=1.0, kl=[1.0] * step, images=10) for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert read_training(RunFolder(tmp_path)) is None
    assert "metrics.jsonl is damaged" in capsys.readouterr().err
