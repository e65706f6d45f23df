"""The report's section on a training: what is drawn is what was measured, and what is said follows from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from cryomorph.diagnostics.training_record import TrainingRecord, judged
from cryomorph.report.page import Figure, Note, Report, Table, render_report
from cryomorph.report.plots import save_plot
from cryomorph.report.training import course, training_notes, training_plot, training_section


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
    np.testing.assert_array_equal(drawn["trained on, without KL"], record.loss)
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
    assert [line.get_label() for line in left.lines] == ["trained on, without KL"]
    assert left.get_title(loc="left") == "Loss: too few epochs to compare"
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["1", "30"]


@pytest.mark.parametrize(
    ("held_out", "said", "level"),
    [
        ([2.1, 1.6, 1.5, 1.4, 1.399], "Held-out loss is level", "good"),
        ([2.0, 1.8, 1.6, 1.4, 1.0], "Held-out loss: last epoch still 40% of the descent", "info"),
        ([2.0, 1.2, 1.0, 1.1, 1.3], "Held-out loss rose after epoch 3", "warning"),
        ([np.nan] * 5, "Loss: last epoch still 50% of the descent", "info"),
    ],
)
def test_the_title_says_how_the_training_ended(record, held_out, said, level):
    """Without held-out particles only the epochs of one band compare: 1.4, 1.3, 1.2 here."""
    found = replace(record, held_out=np.array(held_out))
    assert course(found) == Note(said, level)
    assert training_plot(found).axes[0].get_title(loc="left") == said


def test_the_plot_is_written_as_a_picture(record, tmp_path):
    save_plot(training_plot(record), tmp_path / "training.png")
    assert imread(tmp_path / "training.png").shape[2] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["training.png"]


def test_the_section_holds_poses_and_the_start_where_there_are_any(record):
    poses = {"round": 3, "rotation_deg_prior": 2.5, "rotation_deg_median": 1.5, "shift_pixel_prior": 0.5}
    refined = replace(record, poses=({**poses, "shift_pixel_median": 0.25},))
    section = training_section(refined, linear_reproducibility=np.array([0.9, 0.2]))
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert table.rows == (("3", 2.5, 1.5, 0.5, 0.25),)
    assert "the network was fitted once" in section.blocks[-1].caption
    assert render_report(Report("run", (section,))).count("<img") == 2
    assert [type(block) for block in training_section(record).blocks] == [Figure]


def test_notes_warn_of_each_check_that_failed_and_of_steps_left_out(record):
    notes = training_notes(replace(record, skipped=3), judged(0.5, -0.9, [0.01], view_r2=0.5), np.array([0.9, 0.2]))
    assert [note.level for note in notes] == ["warning"] * 5 + ["good"]
    assert "multiplied by 0.50" in notes[0].text
    assert "do not believe" in notes[1].text
    assert "Posterior collapse" in notes[2].text
    assert "viewing direction (R² 0.50)" in notes[3].text
    assert notes[4].text.startswith("3 training steps were left out")
    assert "1 of 2 components is reproducible" in notes[5].text
    (sound,) = training_notes(record, judged(1.0, 0.9, [1.0], view_r2=0.0))
    assert sound.level == "good"
    assert training_notes(None, ()) == ()
