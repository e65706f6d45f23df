"""Figures of a fit: losses and divergences by epoch, the linear objective, agreement of half sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from cryomorph.diagnostics.model import COLLAPSED
from cryomorph.diagnostics.training import LEVEL, course, last_change
from cryomorph.diagnostics.training_record import TrainingRecord
from cryomorph.latents.linear_fit import REPRODUCIBLE, is_reproducible
from cryomorph.report.style import BLUE, FAINT, PALETTE, VERMILLION, blank, canvas, cluster_colours, few_ticks, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NAMED = 10  # coordinates in a legend


@styled
def training_plot(record: TrainingRecord) -> Figure:
    """Losses by epoch on the left, KL divergence of each latent coordinate by epoch on the right."""
    from matplotlib.ticker import MaxNLocator

    figure = blank(9.6, 3.5)
    left, right = figure.subplots(1, 2)
    _draw_losses(left, record)
    _draw_divergences(right, record)
    for axes in (left, right):
        axes.set(xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y")
    return figure


@styled
def convergence_plot(objective: Float[np.ndarray, " steps"]) -> Figure:
    """The negative log-likelihood of a linear fit by EM iteration."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = canvas()
    axes.plot(np.arange(1, len(objective) + 1), objective, color=BLUE, marker="o", markersize=3)
    change = last_change(objective)
    axes.set_title("Converged" if change < LEVEL else f"Not converged: last step {change:.0%} of the total decrease")
    axes.set(xlabel="EM iteration", ylabel="negative log-likelihood per image")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(axis="y")
    return figure


@styled
def half_sets_plot(value: Float[np.ndarray, " q"]) -> Figure:
    """Agreement of the half sets on each component, from 0 to 1."""
    figure, axes = canvas()
    number = np.arange(1, len(value) + 1)
    good = is_reproducible(value)
    for chosen, colour, hatch in ((good, BLUE, None), (~good, "#C9D1D8", "////")):
        axes.bar(number[chosen], value[chosen].clip(min=0), color=colour, hatch=hatch, edgecolor="white", width=0.65)
    for x, y in zip(number, value, strict=True):
        axes.annotate(f"{max(y, 0):.2f}", (x, max(y, 0)), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    axes.axhline(REPRODUCIBLE, color=VERMILLION, linestyle="--", linewidth=1.2)
    axes.annotate("reproducible", (1.0, REPRODUCIBLE), (0, 3), xycoords=("axes fraction", "data"), ha="right",
                  textcoords="offset points", fontsize=8, color=VERMILLION)  # fmt: skip
    axes.set(xlabel="component", ylabel="agreement between half sets", ylim=(0, 1.08), xticks=few_ticks(number))
    axes.set_xlim(0.4, len(value) + 0.4 + max(0.7, 0.22 * len(value)))  # room for the word next to the last bar
    axes.set_title(f"{int(good.sum())} of {len(value)} components are reproducible")
    return figure


def _draw_losses(axes: Axes, record: TrainingRecord) -> None:
    axes.plot(record.epoch, record.loss, color=BLUE, marker="o", markersize=3, label="training, without KL")
    if np.isfinite(record.held_out).any():
        axes.plot(record.epoch, record.held_out, color=VERMILLION, marker="o", markersize=3,
                  label="held out, with KL")  # fmt: skip
    for number, epoch in enumerate(record.band_grew_at):
        axes.axvline(epoch - 0.5, color=FAINT, linestyle=":", label=None if number else "band limit grows")
    axes.set(ylabel="loss per coefficient")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_title(" ".join(course(record)[:2]))
    axes.legend(fontsize=8)


def _draw_divergences(axes: Axes, record: TrainingRecord) -> None:
    number = record.kl.shape[1]
    colours = list(PALETTE) if number <= len(PALETTE) else list(cluster_colours(number))
    for coordinate in range(number):
        named = number <= MOST_NAMED or coordinate in (0, number - 1)
        axes.plot(record.epoch, record.kl[:, coordinate], color=colours[coordinate], marker="o", markersize=3,
                  label=str(coordinate + 1) if named else None)  # fmt: skip
    axes.axhline(COLLAPSED, color=FAINT, linestyle="--", linewidth=1.2)
    unused = int((record.kl[-1] < COLLAPSED).sum())
    axes.set_title("All coordinates are used" if not unused else f"{unused} of {number} coordinates are unused")
    axes.set(ylabel="KL from the prior (nats)")
    axes.set_ylim(min(0.0, float(record.kl.min())), 1.06 * max(float(record.kl.max()), 2 * COLLAPSED))
    axes.legend(title="coordinate", fontsize=7.5, title_fontsize=8, ncols=1 + (min(number, MOST_NAMED) - 1) // 5)
