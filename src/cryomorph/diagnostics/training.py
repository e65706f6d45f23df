"""Checks of a training by epochs: its held-out loss, and steps that were skipped."""

from __future__ import annotations

import numpy as np

from cryomorph.diagnostics.check import Check, Verdict, not_measured
from cryomorph.diagnostics.training_record import TrainingRecord

LEVEL = 0.02  # of the loss's range: a last step that changed it by less has levelled off
ROSE = 0.05  # of the loss's range


def last_change(loss: np.ndarray) -> float:
    """The last step's change of a loss as a share of the loss's range; 1 where there are fewer than two values."""
    if len(loss) < 2:
        return 1.0
    return abs(float(loss[-1] - loss[-2])) / max(float(np.ptp(loss)), 1e-30)


def course(record: TrainingRecord) -> tuple[str, str, Verdict]:
    """How a training ended: which loss says so, what it did, and the verdict.

    It is the held-out loss, or without one the training loss over the final band.
    """
    held_out = record.deciding_loss is record.held_out
    name = "Held-out loss" if held_out else "Training loss"
    start = record.epoch[0] if held_out or not record.band_grew_at else record.band_grew_at[-1]
    loss = record.deciding_loss[record.epoch >= start]
    loss = loss[np.isfinite(loss)]
    if len(loss) < 2:
        return name, "has too few epochs to compare", "info"
    if loss[-1] - loss.min() > ROSE * max(float(np.ptp(loss)), 1e-30):
        best = record.epoch[np.flatnonzero(record.deciding_loss == loss.min())[0]]
        return name, f"has risen since epoch {best}", "warning"
    if last_change(loss) < LEVEL:
        return name, "has levelled off", "good"
    return name, f"is still changing: last epoch {last_change(loss):.0%} of its range", "info"


def held_out_check(record: TrainingRecord | None) -> Check:
    """The course of the loss of particles that were held out."""
    name, expected = "Held-out loss", f"levelled off: change in the last epoch below {LEVEL:.0%} of its range"
    if record is None:
        advice = "There is no record of epochs. The linear method holds no particles out: its half sets are the test."
        return not_measured(name, expected, advice)
    measured = np.flatnonzero(np.isfinite(record.held_out))
    if not len(measured):
        return not_measured(name, expected, "No particles were held out: train with --held-out 0.05.")
    last, best = measured[-1], measured[record.held_out[measured].argmin()]
    value = f"{record.held_out[last]:.4f} after epoch {record.epoch[last]}"
    if record.held_out[last] > record.held_out[best]:
        value += f"; lowest {record.held_out[best]:.4f} after epoch {record.epoch[best]}"
    _, text, verdict = course(record)
    advice = ": the model is fitting noise; train for fewer epochs" if verdict == "warning" else ""
    return Check(name, value, expected, verdict, f"The loss {text}{advice}.")


def skipped_steps_check(record: TrainingRecord | None) -> Check:
    """Training steps whose gradients could not be used."""
    name, expected = "Skipped training steps", "none"
    if record is None:
        return not_measured(name, expected, "There is no record of epochs.")
    if not record.skipped:
        return Check(name, "0", expected, "good", "No training step was skipped.")
    text = f"{record.skipped:,} training {'step' if record.skipped == 1 else 'steps'} had non-finite or far too large "
    return Check(name, f"{record.skipped:,}", expected, "warning", f"{text}gradients and did not count: see run.log.")
