"""The report's section on a training: what is drawn is what was measured, and what is said follows from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from cryomorph.diagnostics.training_record import TrainingRecord
from cryomorph.report.analyze.training import training_section
from cryomorph.report.page import Figure, Report, Table, render_report
from cryomorph.report.style import save_plot
from cryomorph.report.training_plots import training_plot


@pytest.fixture
def record():
    epoch = np.arange(1, 6)
    kl = np.linspace(0.1, 1, 15).reshape(5, 3)
    kl[:, 2] = 0.01
    return TrainingRecord(
        epoch,
        np.array([2.0, 1.5, 1.4, 1.3, 1.2]),
        np.array([2.1, 1.6, 1.5, 1.4, 1.399]),
        kl,
        np.array([16.0, 24.0, 32.0, 32.0, 32.0]),
    )


def test_the_plot_shows_every_epoch_as_measured(record):
    left, right = training_plot(record).axes
    drawn = {line.get_label(): line.get_ydata() for line in left.lines}
    np.testing.assert_array_equal(drawn["training, without KL"], record.loss)
    np.testing.assert_array_equal(drawn["held out, with KL"], record.held_out)
    assert [line.get_xdata()[0] for line in left.lines if line.get_linestyle() == ":"] == [1.5, 2.5]
    for coordinate in range(3):
        np.testing.assert_array_equal(right.lines[coordinate].get_ydata(), record.kl[:, coordinate])
    assert right.get_title(loc="left") == "1 of 3 coordinates are unused"


def test_a_training_of_one_epoch_without_held_out_particles_can_be_drawn(record):
    short = TrainingRecord(
        record.epoch[:1], record.loss[:1], np.array([np.nan]), np.ones((1, 30)), np.array([np.nan]), skipped=2
    )
    left, right = training_plot(short).axes
    assert [line.get_label() for line in left.lines] == ["training, without KL"]
    assert left.get_title(loc="left") == "Training loss has too few epochs to compare"
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["1", "30"]


def test_the_title_says_how_the_training_ended(record):
    assert training_plot(record).axes[0].get_title(loc="left") == "Held-out loss has levelled off"
    rising = replace(record, held_out=np.array([2.0, 1.2, 1.0, 1.1, 1.3]))
    assert training_plot(rising).axes[0].get_title(loc="left") == "Held-out loss has risen since epoch 3"


def test_the_plot_is_written_as_a_picture(record, tmp_path):
    save_plot(training_plot(record), tmp_path / "training.png")
    assert imread(tmp_path / "training.png").shape[2] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["training.png"]


def test_the_section_holds_poses_and_the_start_where_there_are_any(record):
    poses = {"round": 3, "rotation_deg_prior": 2.5, "rotation_deg_median": 1.5, "shift_pixel_prior": 0.5}
    refined = replace(record, poses=({**poses, "shift_pixel_median": 0.25},))
    plot = training_plot(refined)
    section = training_section(refined, plot, linear_start=np.array([0.9, 0.2]))
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert table.rows == (("3", 2.5, 1.5, 0.5, 0.25),)
    assert "was trained once" in section.blocks[-1].caption
    assert render_report(Report("run", (section,))).count("<img") == 2
    assert [type(block) for block in training_section(record, plot).blocks] == [Figure]
