"""The figure of motions: how Gaussians move, seen from three sides, and the particles along each motion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float64, Shaped

from cryomorph.analysis.motions.modes import MotionSpace
from cryomorph.analysis.motions.paths import PERCENTILES, MotionPath
from cryomorph.report.style import FAINT, INK, SKY, blank, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

SIDES = (("x", "y", 0, 1), ("x", "z", 0, 2), ("y", "z", 1, 2))
MOST_ARROWS = 250  # more would hide one another
SHORTEST = 0.04  # of the longest arrow: shorter ones are not drawn


def arrow_colours(lengths: Float[np.ndarray, " n"]) -> Float64[np.ndarray, "n 3"]:
    """RGB colours of displacements by their lengths, from zero to the longest."""
    colours, scale = _scale(lengths)
    return np.asarray(colours(scale(lengths)), dtype=np.float64)[:, :3]


@styled
def motions_figure(
    paths: Sequence[MotionPath], space: MotionSpace, *, titles: Sequence[str], neutral: Float64[np.ndarray, "n 3"]
) -> Figure:
    """A row for each motion: the Gaussians' displacements from three sides, and the particles along it.

    Args:
        titles: of the rows.
        neutral: positions of the Gaussians in the neutral model, in Angstrom as in files.
    """
    every = np.concatenate([neutral, *(path.position[end] for path in paths for end in (0, -1))])
    margin = 0.04 * float(np.ptp(every, axis=0).max())
    low, high = every.min(axis=0) - margin, every.max(axis=0) + margin
    extent = high - low
    widths = [extent[0], extent[0], extent[1]]
    tallest = max(extent[1], extent[2])
    inch = min(9.6 / sum(widths), 4.2 / tallest)  # per Angstrom: one scale for all panels
    height = max(2.4, inch * tallest) + 0.9
    figure = blank(inch * sum(widths) + 4.2, height * len(paths))
    rows = figure.subfigures(len(paths), 1, squeeze=False)[:, 0]
    for row, path, title in zip(rows, paths, titles, strict=True):
        row.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        panels = row.subplots(1, 4, width_ratios=(*widths, 2.4 / inch))
        _sides(panels[:3], path, neutral, low=low, high=high)
        _particles(panels[3], path, space)
    return figure


def _sides(
    panels: Shaped[np.ndarray, " three"],
    path: MotionPath,
    neutral: Float64[np.ndarray, "n 3"],
    *,
    low: Float64[np.ndarray, " 3"],
    high: Float64[np.ndarray, " 3"],
) -> None:
    moved = path.displacement
    lengths = np.linalg.norm(moved, axis=1)
    colours, scale = _scale(lengths)
    mass = path.amplitude.mean(axis=0)
    drawn = np.flatnonzero((lengths > SHORTEST * lengths.max()) & (mass > 0.1 * mass.mean()))
    if len(drawn) > MOST_ARROWS:
        drawn = np.random.default_rng(0).choice(drawn, MOST_ARROWS, replace=False)
    drawn = drawn[np.argsort(lengths[drawn], kind="stable")]  # the longest in front
    size = np.clip(6e4 / len(neutral), 4, 260) * mass / mass.max()
    for axes, (across, up, a, b) in zip(panels, SIDES, strict=True):
        axes.scatter(neutral[:, a], neutral[:, b], s=size, c="#DCE2E8", edgecolors="none", zorder=1)
        start = path.position[0][drawn]
        arrow = axes.quiver(
            start[:, a], start[:, b], moved[drawn, a], moved[drawn, b], lengths[drawn],
            cmap=colours, norm=scale, angles="xy", scale_units="xy", scale=1, units="inches", width=0.025,
            headwidth=3.6, headlength=4, headaxislength=3.6, minlength=0, zorder=2,
        )  # fmt: skip
        axes.set(xlim=(low[a], high[a]), ylim=(low[b], high[b]), aspect="equal", anchor="NW")
        axes.set(xticks=[], yticks=[], xlabel=across, ylabel=up)
        axes.spines[:].set_visible(False)
    _ruler(panels[0], low, high)
    bar = panels[0].figure.colorbar(arrow, ax=list(panels), shrink=0.8, pad=0.01, aspect=24)
    bar.set_label("displacement (A)")
    bar.outline.set_visible(False)


def _ruler(axes: Axes, low: Float64[np.ndarray, " 3"], high: Float64[np.ndarray, " 3"]) -> None:
    """A scale bar in the lower left corner."""
    longest = float(high[0] - low[0]) / 3
    power = 10.0 ** np.floor(np.log10(longest))
    length = float(max(step * power for step in (1, 2, 5) if step * power <= longest))
    left, height = low[0], low[1]
    axes.plot([left, left + length], [height, height], color=INK, linewidth=3, solid_capstyle="butt", clip_on=False)
    axes.annotate(f"{length:g} A", (left, height), (0, 4), textcoords="offset points", fontsize=8, va="bottom")


def _particles(axes: Axes, path: MotionPath, space: MotionSpace) -> None:
    """Histogram of the particles along the motion, and the part that the path spans."""
    along = space.scores @ path.motion.direction
    own = next((i for i, motion in enumerate(space.motions) if motion.name == path.motion.name), None)
    if own is not None:
        along = space.coordinates[:, own].astype(np.float64)
    shown = np.clip(along, *np.percentile(along, (0.2, 99.8)))
    axes.hist(shown, bins=int(np.clip(len(along) ** 0.5, 10, 60)), color=SKY, linewidth=0)
    first, last = np.percentile(along, PERCENTILES)
    axes.axvspan(first, last, color=FAINT, alpha=0.15, linewidth=0, zorder=0)
    axes.set(xlabel="coordinate (A RMS)" if own is not None else "coordinate (standard deviations)", yticks=[])
    axes.spines["left"].set_visible(False)
    axes.set_title("particles; shaded: the path", fontsize=9, fontweight="normal")


def _scale(lengths: Float[np.ndarray, " n"]) -> tuple[Colormap, Normalize]:
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    # the palest colours would be lost on white
    part = colormaps["plasma_r"](np.linspace(0.15, 0.95, 256))
    return LinearSegmentedColormap.from_list("length", part), Normalize(0, max(float(lengths.max()), 1e-9))
