"""Metrics, curves and spectra of a run: read as they were written, or a sentence that names the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomorph.config.errors import InputError
from cryomorph.runs.consensus import FscCurves, Spectra
from cryomorph.runs.metrics import append_metrics, read_metrics


@pytest.fixture
def warnings(monkeypatch):
    seen: list[str] = []
    monkeypatch.setattr("cryomorph.runs.metrics.warn", seen.append)
    return seen


def test_metrics_are_read_back_as_written(tmp_path, warnings):
    rows = [
        {"stage": "linear", "step": 1, "log_likelihood": -2.5},
        {"stage": "joint", "epoch": 1, "step": 50, "kl": [1.0, 0.5], "nll": float("nan"), "images": 9},
    ]
    assert read_metrics(tmp_path) == []
    for row in rows:
        append_metrics(tmp_path, **row)  # type: ignore[arg-type]
    assert str(read_metrics(tmp_path)) == str(rows)
    assert not warnings


def test_a_last_line_that_a_kill_cut_off_is_left_out_in_silence(tmp_path, warnings):
    append_metrics(tmp_path, stage="linear", step=1, log_likelihood=-2.5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "lin')
    assert len(read_metrics(tmp_path)) == 1 and not warnings


@pytest.mark.parametrize(
    "line",
    [
        b"\xb0\xff\x94\x01zz\x00\x80",
        b"[1, 2]",
        b'{"step": 1}',
        b'{"stage": "linear", "step": "x", "log_likelihood": 1}',
        b'{"stage": "joint", "epoch": 1}',
        b'{"stage": "joint", "epoch": 1, "step": 1, "kl": ["x"]}',
        b'{"stage": "joint", "epoch": 1, "step": 1, "kl": {}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_line_is_left_out_and_said(tmp_path, warnings, line):
    sound = b'{"stage": "linear", "step": 1, "log_likelihood": 1}'
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([sound, line, sound]) + b"\n")
    assert len(read_metrics(tmp_path)) == 2
    assert warnings == [f"{tmp_path / 'metrics.jsonl'}: 1 of 3 lines cannot be read, the first is 2: they are left out"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"shell,resolution_A,unmasked,masked,phase_randomised,corrected\n",
        b"shell,resolution_A,unmasked,masked,corrected\n0,inf,1,1,1\n",
        b"shell,resolution_A,unmasked,masked,phase_randomised,corrected\n0,inf,1,1,x,1\n",
        b"shell,resolution_A,unmasked,masked,phase_randomised,corrected\n0,inf,1,1\n",
        b"shell,resolution_A,unmasked,masked,phase_randomised,corrected\n0,inf,1,1,nan,1\n",
        b"shell,resolution_A,unmasked,masked,phase_randomised,corrected\n0,inf,1,\xff,1,1\n",
        b'shell,"' * 10,
        b"\x00" * 10,
    ],
)
def test_damaged_curves_are_said(tmp_path, content):
    (tmp_path / "fsc.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"fsc\.csv cannot be read \(.+\): train again with --overwrite"):
        FscCurves.read(tmp_path / "fsc.csv")


def test_a_column_of_a_curve_that_was_not_needed_may_be_empty(tmp_path):
    table = "shell,resolution_A,unmasked,masked,phase_randomised,corrected\n0,inf,1,1,,1\n1,8,0.9,0.8,{},0.7\n"
    (tmp_path / "fsc.csv").write_text(table.format(""))
    curves = FscCurves.read(tmp_path / "fsc.csv")
    assert curves.phase_randomised is None and curves.corrected.tolist() == pytest.approx([1, 0.7])
    (tmp_path / "fsc.csv").write_text(table.format("0.1"))
    with pytest.raises(InputError, match="cannot be read"):
        FscCurves.read(tmp_path / "fsc.csv")


def test_curves_of_another_box_are_said(tiny_run):
    path = tiny_run.path / "consensus" / "fsc.csv"
    assert len(FscCurves.read(path, shells=8).corrected) == 8
    with pytest.raises(InputError, match=r"fsc\.csv cannot be read \(8 rows, expected 9\)"):
        FscCurves.read(path, shells=9)


def test_spectra_are_read_back_as_written_and_checked(tmp_path):
    written = Spectra(torch.rand(9), torch.rand(9))
    written.write(tmp_path)
    found = Spectra.read(tmp_path, shells=9)
    np.testing.assert_array_equal(found.precision, written.precision)
    np.testing.assert_array_equal(found.noise, written.noise)
    with pytest.raises(InputError, match=r"spectra\.safetensors cannot be read \(shapes \(9,\), \(9,\), expected"):
        Spectra.read(tmp_path, shells=8)
    Spectra(torch.full((9,), torch.nan), torch.rand(9)).write(tmp_path)
    with pytest.raises(InputError, match=r"spectra\.safetensors: precision has values that are not finite"):
        Spectra.read(tmp_path, shells=9)
