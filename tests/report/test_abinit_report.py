"""The page of an ab initio run: its verdict in words, its tables against the records, its pictures against arrays."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from cryomorph.config.errors import InputError
from cryomorph.io.mrc import write_map
from cryomorph.report import abinit as report_module
from cryomorph.report.abinit import (
    abinit_report,
    central_slices,
    shown_rounds,
    view_histograms,
    write_abinit_report,
)
from cryomorph.report.page import Figure, Note, Table
from cryomorph.runs.folder import RunFolder

STARTS = {"stage": "starts", "best": 1, "agreeing": 2, "shared": [0.9, 1.0, 0.2], "log_likelihood": [41.5, 52.25, 12.0]}
ROUNDS = [
    {"stage": "search", "step": 1, "band": 10, "images": 300, "agreed": 9, "resolution_A": 31.5, "seconds": 3.4},
    {
        "stage": "search",
        "step": 2,
        "band": 12,
        "images": 400,
        "agreed": 11,
        "resolution_A": 24.25,
        "seconds": 5.0,
        "turned_deg": 4.5,
        "moved_A": 1.25,
    },
    {
        "stage": "refine",
        "step": 3,
        "band": 13,
        "images": 400,
        "agreed": 12,
        "resolution_A": 20.0,
        "seconds": 1.0,
        "turned_deg": 0.75,
        "moved_A": 0.5,
    },
]


@pytest.fixture
def run(tiny_run, tmp_path) -> RunFolder:
    """A finished run whose records are those of an ab initio one: the second of three starts, three rounds."""
    shutil.copytree(tiny_run.path, tmp_path / "run", symlinks=True)
    found = RunFolder(tmp_path / "run")
    tell(found, STARTS, *ROUNDS)
    (found.path / "abinit").mkdir()
    for number, name in enumerate(("start-1", "start-2", "round-1", "round-2", "round-3")):
        volume = np.random.default_rng(number).normal(size=(16, 16, 16)).astype(np.float32)
        write_map(found.path / "abinit" / f"{name}.mrc", volume, 16.0)
    for number in (1, 2, 3):
        np.save(found.path / "abinit" / f"views-{number}.npy", np.arange(192) * number)
    return found


def tell(run: RunFolder, *records: dict) -> None:
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def verdict(run: RunFolder, **changes: object) -> Note:
    tell(run, STARTS | changes, *ROUNDS)
    report = abinit_report(run)
    assert len(report.summary) == 1
    # the first section says the same
    assert report.sections[0].intro == report.summary[0].text
    return report.summary[0]


def test_one_start_says_nothing_of_another(run):
    found = verdict(run, best=0, agreeing=1, shared=[1.0], log_likelihood=[40.0])
    assert found.level == "missing" and "only one random start" in found.text


def test_starts_that_agree_are_good(run):
    found = verdict(run)
    assert found.level == "good" and found.text.startswith("2 of 3 independent random starts")


def test_starts_that_explain_nothing_are_a_warning_even_where_they_agree(run):
    found = verdict(run, log_likelihood=[0.02, 0.01, -0.01], shared=[1.0, 0.9, 0.9], agreeing=3)
    assert found.level == "warning" and "there is no map to trust" in found.text


def test_starts_that_do_not_agree_are_a_warning_that_says_what_to_do(run):
    found = verdict(run, agreeing=1, shared=[0.3, 1.0, 0.2])
    assert found.level == "warning" and found.text.startswith("No two of 3 random starts")
    assert "--start-images" in found.text and "--start-radius" in found.text


def tables(run: RunFolder) -> list[Table]:
    return [block for section in abinit_report(run).sections for block in section.blocks if isinstance(block, Table)]


def test_tables_hold_the_records(run):
    starts, rounds = tables(run)
    assert starts.rows == (
        ("1", 41.5, "0.90"),
        ("2 (continued)", 52.25, "1.00"),
        ("3", 12.0, "0.20"),
    )
    assert [row[:5] for row in rounds.rows] == [
        ("1", "search", "300", "10", "31.50"),
        ("2", "search", "400", "12", "24.25"),
        ("3", "refine", "400", "13", "20.00"),
    ]
    assert [row[5:] for row in rounds.rows[1:]] == [("4.50", "1.25", "5"), ("0.75", "0.50", "1")]
    # before the first round poses were nowhere
    assert all(isinstance(cell, Note) and cell.level == "missing" for cell in rounds.rows[0][5:7])


def test_a_round_that_was_done_again_is_shown_once_as_it_was_last(run):
    tell(run, STARTS, ROUNDS[0], ROUNDS[1] | {"resolution_A": 99.0}, ROUNDS[1], ROUNDS[2])
    assert [row[4] for row in tables(run)[1].rows] == ["31.50", "24.25", "20.00"]
    tell(run, STARTS | {"agreeing": 1}, *ROUNDS, STARTS)
    assert abinit_report(run).summary[0].level == "good"


def test_the_page_is_one_file_with_verdict_and_pictures(run):
    path = write_abinit_report(run)
    text = path.read_text()
    assert path == run.path / "report.html"
    assert "2 of 3 independent random starts came to this structure" in text
    assert "mirror image" in text  # the hand is not known
    figures = [
        block for section in abinit_report(run).sections for block in section.blocks if isinstance(block, Figure)
    ]
    assert len(figures) == 3 and all(figure.alt and figure.caption for figure in figures)
    assert not re.search(r"(?:src|href)=\"https?://", text)
    assert {"Particles": "400", "Box": "16"}.items() <= abinit_report(run).facts.items()


def without_starts(run: RunFolder, rounds: int) -> None:
    """The records and pictures of a run by one network: its first round at random poses, then searches."""
    rows = [
        {"stage": "search", "step": step, "band": 20, "images": 400, "seconds": 2.0} for step in range(1, rounds + 1)
    ]
    rows[0] |= {"stage": "random", "band": 32}
    rows[2] |= {"turned_deg": 40.25, "moved_A": 3.5}
    tell(run, *rows)
    for name in ("start-1", "start-2"):
        (run.path / "abinit" / f"{name}.mrc").unlink()
    for number in range(1, rounds + 1):
        write_map(run.path / "abinit" / f"round-{number}.mrc", np.ones((16, 16, 16), np.float32), 16.0)
        np.save(run.path / "abinit" / f"views-{number}.npy", np.arange(192))


def test_without_random_starts_nothing_vouches_for_the_map(run):
    without_starts(run, 3)
    report = abinit_report(run)
    assert [found.level for found in report.summary] == ["missing"]
    assert report.summary[0].text == report.sections[0].intro and not report.sections[0].blocks
    assert report.summary[0].text.startswith("One network was trained from one random start")
    assert "--seed" in report.summary[0].text and "cryomorph align" in report.summary[0].text
    curve = report.sections[2].blocks[0]
    assert isinstance(curve, Figure) and "searched against one network" in curve.caption
    assert "searched separately" not in curve.caption


def test_rounds_without_half_maps_have_no_resolution(run):
    without_starts(run, 3)
    (rounds,) = tables(run)
    assert [row[:4] for row in rounds.rows] == [
        ("1", "random", "400", "32"),
        ("2", "search", "400", "20"),
        ("3", "search", "400", "20"),
    ]
    assert all(isinstance(row[4], Note) and row[4].level == "missing" for row in rounds.rows)
    assert rounds.rows[2][5:7] == ("40.25", "3.50")
    assert all(isinstance(cell, Note) for row in rounds.rows[:2] for cell in row[5:7])


def test_of_many_rounds_eight_are_shown(run, monkeypatch):
    """By maps and by views alike; the table has all."""
    without_starts(run, 22)
    shown: list[list[str]] = []
    for drawing in (central_slices, view_histograms):
        monkeypatch.setattr(
            report_module, drawing.__name__, lambda of, draw=drawing: shown.append([*map(str, of)]) or draw(of)
        )
    (rounds,) = tables(run)
    assert len(rounds.rows) == 22
    numbers = [1, 4, 7, 10, 13, 16, 19, 22]
    numbers = [1, 4, 7, 10, 13, 16, 19, 22]
    assert shown == [[f"round-{number}" for number in numbers], [*map(str, numbers)]]


@pytest.mark.parametrize("count", [*range(1, 30), 500])
def test_rounds_that_are_shown_are_the_first_the_last_and_evenly_between(count):
    rounds = [*range(10, 10 + 3 * count, 3)]
    found = shown_rounds(rounds)
    assert len(found) == min(count, 8) and set(found) <= {*rounds}
    assert found[0] == rounds[0] and found[-1] == rounds[-1]
    apart = np.diff(found) / 3
    assert count == 1 or (apart.min() >= 1 and apart.max() - apart.min() <= 1)


def test_central_slices_are_those_of_the_map():
    """Perpendicular to z, y and x through the origin at voxel `n // 2`; one column for each map."""
    volume = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    drawing = central_slices({"one": volume, "none": np.zeros((8, 8, 8), np.float32)})
    axes = np.array(drawing.axes).reshape(3, 2)
    for shown, expected in zip(axes[:, 0], (volume[4], volume[:, 4], volume[:, :, 4]), strict=True):
        np.testing.assert_array_equal(np.asarray(shown.images[0].get_array()), expected)
    assert [shown.get_title(loc="left") for shown in axes[0]] == ["one", "none"]


def test_views_are_shown_where_they_are_on_the_sphere():
    """A single bright direction, by its HEALPix number in the order of rings (healpix's own centres)."""
    import healpix

    for number in (0, 50, 100, 191):
        counts = np.zeros(192, np.int64)
        counts[number] = 7
        drawing = view_histograms({1: counts})
        mesh = drawing.axes[0].collections[0]
        shown = np.asarray(mesh.get_array()).reshape(60, 120)
        latitude, longitude = np.meshgrid(
            (np.arange(60) + 0.5) * np.pi / 60 - np.pi / 2, (np.arange(120) + 0.5) * np.pi / 60 - np.pi, indexing="ij"
        )
        bright = shown == 7
        share = np.cos(latitude)
        assert (share * bright).sum() / share.sum() == pytest.approx(1 / 192, rel=0.25)
        where = np.array(
            [
                (np.cos(latitude) * np.cos(longitude))[bright].mean(),
                (np.cos(latitude) * np.sin(longitude))[bright].mean(),
                np.sin(latitude)[bright].mean(),
            ]
        )
        centre = np.array(healpix.pix2vec(4, number, nest=False)).ravel()
        assert where @ centre / np.linalg.norm(where) > np.cos(np.radians(5))


def test_a_run_of_another_method_is_refused(tiny_run):
    with pytest.raises(InputError, match="has no record of pose searches: it is not a run of `cryomorph abinit`"):
        abinit_report(tiny_run)


def test_records_that_are_gone_are_said(run):
    (run.path / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match=r"metrics\.jsonl is missing"):
        write_abinit_report(run)
    assert not (run.path / "report.html").exists()


@pytest.mark.parametrize("gone", ["abinit/start-2.mrc", "abinit/round-2.mrc", "abinit/views-3.npy"])
def test_pictures_that_are_gone_are_said(run, gone):
    (run.path / gone).unlink()
    with pytest.raises(InputError, match=re.escape(Path(gone).name)):
        write_abinit_report(run)
    assert not (run.path / "report.html").exists()
