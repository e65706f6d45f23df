"""The report's section on a training by epochs: its curves, its start, its refined poses; and its checks in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32

from cryomorph.diagnostics.model_checks import model_verdicts
from cryomorph.diagnostics.training_record import TrainingRecord, Verdict, read_metrics, training_record
from cryomorph.report import plots
from cryomorph.report.page import Block, Figure, Note, Section, Table
from cryomorph.runs.checkpoint import load_tensors
from cryomorph.runs.checks import COLLAPSED
from cryomorph.runs.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

LEVEL = 0.02  # of the whole descent: a last epoch that brought less is level
ROSE = 0.05  # of the whole descent
MOST_NAMED = 10  # coordinates in a legend


@dataclass(frozen=True)
class Training:
    """How a run was trained, what its model was asked afterwards, and the half sets' agreement on its linear start.

    `record` and `plot` are None where nothing was trained by epochs, `start` where there was no linear start.
    """

    record: TrainingRecord | None
    checks: tuple[Verdict, ...]
    start: Float32[np.ndarray, " q"] | None
    plot: Drawing | None

    @property
    def sections(self) -> tuple[Section, ...]:
        """The section on a training by epochs, where there was one."""
        if self.record is None:
            return ()
        return (training_section(self.record, linear_reproducibility=self.start, plot=self.plot),)

    @property
    def notes(self) -> tuple[Note, ...]:
        """What the summary is to say."""
        return training_notes(self.record, self.checks, self.start)


def training_of(run: RunFolder, relative_std: Float[np.ndarray, "n q"]) -> Training:
    """What a run's files say of its training, its curves drawn; its model is asked now where it was not.

    Args:
        relative_std: posterior standard deviations in units of each coordinate's own spread.
    """
    record = training_record(read_metrics(run.path / "metrics.jsonl"))
    start = None
    if run.linear_start.is_file():
        start = load_tensors(run.linear_start)[0]["reproducibility"].numpy()
    return Training(record, model_verdicts(run, relative_std), start, None if record is None else training_plot(record))


@plots.styled
def training_plot(record: TrainingRecord) -> Drawing:
    """Losses by epoch on the left, divergence of each latent coordinate by epoch on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9.6, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_losses(left, record)
    _draw_divergences(right, record)
    for axes in (left, right):
        axes.set(xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y")
    return figure


def training_section(
    record: TrainingRecord,
    *,
    linear_reproducibility: Float[np.ndarray, " q"] | None = None,
    plot: Drawing | None = None,
) -> Section:
    """How a training went.

    Args:
        linear_reproducibility: of the linear model that the training started from, where it did.
        plot: the figure of `training_plot`, where it is drawn already.
    """
    blocks: list[Block] = [
        Figure(
            plot if plot is not None else training_plot(record),
            "Left: misfit of each Fourier coefficient, noise included; where the noise is known well, a perfect model "
            "comes down to 1. Held-out particles never teach the network: their curve decides, and where it rises "
            "while the other falls, the model learns noise. It counts all frequencies and the divergence from the "
            "prior, the other curve the band of that epoch alone: compare how they run, not where they lie. Right: "
            "how much the images say about each latent coordinate. At 0 they say nothing and the coordinate is "
            "unused; level lines are latent points that stay as the linear method left them.",
            "Loss and divergence by epoch",
            vector=True,
            wide=True,
        )
    ]
    if record.poses:
        blocks.append(_pose_table(record))
    if linear_reproducibility is not None:
        blocks.append(
            Figure(
                plots.reproducibility(linear_reproducibility),
                "The linear model that the training started from, fitted to each half of the particles alone. This is "
                "the evidence that there is a landscape to refine. It is about the linear components: the network was "
                "fitted once, to all particles, and its own coordinates have no such test.",
                "Agreement between half sets for each component of the linear start",
                vector=True,
            )
        )
    return Section("Training", tuple(blocks), "How the network was fitted, and what it began with.")


def training_notes(
    record: TrainingRecord | None,
    checks: Sequence[Verdict],
    linear_reproducibility: Float[np.ndarray, " q"] | None = None,
) -> tuple[Note, ...]:
    """The same for the report's summary: a sentence for each check that failed, for steps left out, for the start."""
    notes = [Note(verdict.meaning, "warning") for verdict in checks if not verdict.sound]
    if checks and not notes:
        notes.append(Note("Scale, sign, use of the latent space and independence of the view are sound.", "good"))
    if record is not None and record.skipped:
        many = "step was" if record.skipped == 1 else "steps were"
        text = f"{record.skipped:,} training {many} left out, being no numbers or far too large: see run.log."
        notes.append(Note(text, "warning"))
    if linear_reproducibility is not None:
        good = int((linear_reproducibility >= plots.REPRODUCIBLE).sum())
        text = (
            f"The training started from a linear model of which {good} of {len(linear_reproducibility)} components "
            f"{'is' if good == 1 else 'are'} reproducible between half sets of the particles."
        )
        notes.append(Note(text, "good" if good else "warning"))
    return tuple(notes)


def _draw_losses(axes: Axes, record: TrainingRecord) -> None:
    axes.plot(record.epoch, record.loss, color=plots.BLUE, marker="o", markersize=3, label="trained on, without KL")
    if np.isfinite(record.held_out).any():
        axes.plot(record.epoch, record.held_out, color=plots.VERMILLION, marker="o", markersize=3,
                  label="held out, with KL")  # fmt: skip
    for number, epoch in enumerate(record.grew_before):
        axes.axvline(epoch - 0.5, color=plots.FAINT, linestyle=":", label=None if number else "band grows")
    axes.set(ylabel="loss per coefficient")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_title(course(record).text)
    axes.legend(fontsize=8)


def course(record: TrainingRecord) -> Note:
    """How the training ended, by the loss of held-out particles, or without these by the loss of the whole band."""
    name = "Held-out loss" if record.telling is record.held_out else "Loss"
    start = record.grew_before[-1] if record.telling is record.loss and record.grew_before else record.epoch[0]
    loss = record.telling[record.epoch >= start]
    loss = loss[np.isfinite(loss)]
    if len(loss) < 2:
        return Note(f"{name}: too few epochs to compare")
    descent = max(float(np.ptp(loss)), 1e-30)
    if loss[-1] - loss.min() > ROSE * descent:
        at = record.epoch[np.flatnonzero(record.telling == loss.min())[0]]
        return Note(f"{name} rose after epoch {at}", "warning")
    share = abs(float(loss[-1] - loss[-2])) / descent
    if share < LEVEL:
        return Note(f"{name} is level", "good")
    return Note(f"{name}: last epoch still {share:.0%} of the descent")


def _draw_divergences(axes: Axes, record: TrainingRecord) -> None:
    number = record.kl.shape[1]
    colours = list(plots.PALETTE) if number <= len(plots.PALETTE) else list(plots.cluster_colours(number))
    for coordinate in range(number):
        named = number <= MOST_NAMED or coordinate in (0, number - 1)
        axes.plot(record.epoch, record.kl[:, coordinate], color=colours[coordinate], marker="o", markersize=3,
                  label=str(coordinate + 1) if named else None)  # fmt: skip
    axes.axhline(COLLAPSED, color=plots.FAINT, linestyle="--", linewidth=1.2)
    unused = int((record.kl[-1] < COLLAPSED).sum())
    axes.set_title("All coordinates are used" if not unused else f"{unused} of {number} coordinates are unused")
    axes.set(ylabel="KL from the prior (nats)")
    axes.set_ylim(min(0.0, float(record.kl.min())), 1.06 * max(float(record.kl.max()), 2 * COLLAPSED))
    axes.legend(title="coordinate", fontsize=7.5, title_fontsize=8, ncols=1 + (min(number, MOST_NAMED) - 1) // 5)


def _pose_table(record: TrainingRecord) -> Table:
    columns = ("rotation_deg_prior", "rotation_deg_median", "shift_pixel_prior", "shift_pixel_median")
    return Table(
        ("after epoch", "rotation: prior width (°)", "median change (°)", "shift: prior width (px)", "median (px)"),
        tuple((str(row["round"]), *(float(row[name]) for name in columns)) for row in record.poses),
        "Refined poses, compared with those given. The prior width is how far all particles together say that poses "
        "are off about each axis; the median is how far they were moved. Small widths mean that the given poses were "
        "right; widths that keep growing mean that model and poses drift together.",
    )
