"""Figures of a landscape: maps and particles by state, as in Zhong et al. 2022."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int64

from cryomorph.analysis.landscape.embedding import ParticleEmbedding
from cryomorph.analysis.landscape.states import Suggestion
from cryomorph.diagnostics.landscape import RARE
from cryomorph.render.picture import Rgba
from cryomorph.report.latent_plots import SCATTER_POINTS
from cryomorph.report.style import BLUE, FAINT, ORANGE, PALETTE, VERMILLION, blank, canvas, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "osD^vPX*"
"""For states that share a colour."""


@styled
def by_state(
    points: Float[np.ndarray, "k 2"],
    states: Int64[np.ndarray, " k"],
    names: tuple[str, str],
    *,
    title: str,
    what: str = "maps",
    numbers: bool = True,
) -> Figure:
    """Points in a plane, coloured by state, the rarest on top, with counts in the legend.

    Args:
        what: the points are, for the legend.
        numbers: False where coordinates mean nothing by themselves.
    """
    figure, axes = canvas(5.6, 4.3)
    counts = np.bincount(states)
    shown = np.arange(len(points))
    if len(shown) > SCATTER_POINTS:
        shown = np.random.default_rng(0).choice(len(points), SCATTER_POINTS, replace=False)
    size = float(np.clip(9000 / len(shown), 2.0, 22))
    for state in range(len(counts)):
        x, y = points[shown[states[shown] == state]].T
        axes.scatter(x, y, s=size if counts[state] > RARE * len(points) else max(size, 14), c=colour(state),
                     marker=MARKERS[state // len(PALETTE) % len(MARKERS)], linewidths=0, alpha=0.8, zorder=2 + state,
                     rasterized=True, label=f"{state} ({counts[state]:,})")  # fmt: skip
    axes.set(xlabel=names[0], ylabel=names[1])
    if not numbers:
        axes.set(xticks=[], yticks=[])
    axes.set_title(title)
    legend = figure.legend(title=f"state ({what})", loc="outside right center", fontsize=7.5, title_fontsize=8,
                           ncols=1 + len(counts) // 16)  # fmt: skip
    for handle in legend.legend_handles:
        handle.set_sizes([20.0])  # type: ignore[union-attr]
    return figure


@styled
def counts_plot(volumes: Sequence[int], particles: Sequence[int]) -> Figure:
    """Sketched maps and particles in each state, on logarithmic scales so that rare states show."""
    figure = blank(5.6, 3.3)
    for axes, values, name in zip(figure.subplots(1, 2), (volumes, particles), ("maps", "particles"), strict=True):
        state = np.arange(len(values))
        bars = axes.bar(state, values, color=[colour(i) for i in range(len(values))], width=0.75, log=True)
        axes.bar_label(bars, [f"{value:,}" for value in values], fontsize=6.5, padding=1,
                       rotation=90 if len(values) > 6 else 0)  # fmt: skip
        axes.set(xlabel="state", ylabel=name, xticks=state[:: 1 + len(state) // 12], ylim=(0.6, 8 * max(values)))
        axes.set_title(f"{name.capitalize()} in each state")
    return figure


@styled
def merging_plot(suggestion: Suggestion, states: int) -> Figure:
    """The distance at which the last states merge: it steps up where merging starts to join well-separated states."""
    figure, axes = canvas()
    number = np.arange(2, len(suggestion.heights) + 2)
    axes.plot(number, suggestion.heights, color=BLUE, marker="o", markersize=4)
    marks = [(states, ORANGE, "requested")]
    if suggestion.states > 1:
        marks.insert(0, (suggestion.states, VERMILLION, f"largest step ({suggestion.gap:.1f}-fold)"))
    for at, shade, label in marks:
        axes.axvline(at + 0.5, color=shade, linestyle="--", linewidth=1.4, label=f"{at} states: {label}")
    axes.set(xlabel="number of states before the merge", ylabel="merging distance", ylim=(0, None))
    axes.set_xticks(number[::2] if len(number) > 10 else number)
    axes.set_title(
        f"The maps suggest {suggestion.states} states" if suggestion.clear else "No number of states stands out"
    )
    axes.legend(fontsize=8)
    axes.grid(axis="y")
    return figure


@styled
def regression_plot(embedding: ParticleEmbedding) -> Figure:
    """Held-out maps: predicted against decoded coordinates."""
    count = min(3, embedding.truth.shape[1])
    figure = blank(2.6 * count + 0.4, 2.9)
    for number, axes in enumerate(np.atleast_1d(figure.subplots(1, count))):
        truth, predicted = embedding.truth[:, number], embedding.predicted[:, number]
        ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
        axes.plot(ends, ends, color=FAINT, linewidth=1)
        axes.scatter(truth, predicted, s=9, color=BLUE, linewidths=0, alpha=0.7)
        axes.set(xlabel="decoded", ylabel="predicted" if number == 0 else "")
        axes.set_title(f"PC{number + 1}: R² {embedding.r2_each[number]:.4f}")
    return figure


@styled
def pictures_plot(pictures: Sequence[Rgba], titles: Sequence[str], *, columns: int = 5) -> Figure:
    """Pictures of maps side by side."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = blank(1.6 * columns, 1.85 * rows)
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, picture, title in zip(figure.axes, pictures, titles, strict=False):
        axes.imshow(picture, interpolation="lanczos")
        axes.set_title(title, fontsize=7.5, loc="center", pad=3)
    return figure


def colour(state: int) -> str:
    """The colour of a state, by its number."""
    return PALETTE[state % len(PALETTE)]
