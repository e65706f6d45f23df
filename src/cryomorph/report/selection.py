"""Figures of a selection's maps: how far decoded and back-projected ones agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from cryomorph.analysis.selection_map import SelectionMap
from cryomorph.report.plots import BLUE, FAINT, ORANGE, PALETTE, VERMILLION, styled
from cryomorph.volumes.fsc import FscReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def agreement_plot(found: SelectionMap) -> Figure:
    """FSC of each compared map with the back-projected one."""
    drawn = {
        "a map without error": (found.agreement["ceiling"], FAINT, "--"),
        "decoded at the mean": (found.agreement["mean"], BLUE, "-"),
        "decoded at the nearest particle": (found.agreement["nearest"], ORANGE, "-"),
        "consensus": (found.agreement["consensus"], VERMILLION, "-"),
    }
    curves = {name: one.curve for name, (one, *_) in drawn.items()}
    title = f"Decoded: mean FSC {found.agreement['mean'].mean_fsc:.2f} of {found.agreement['ceiling'].mean_fsc:.2f}"
    return _curves(curves, found.reconstruction.fsc, [style for _, *style in drawn.values()], title=title)


@styled
def states_plot(
    curves: Mapping[int, Float32[Tensor, " shells"]],
    fsc: FscReport,
    *,
    title: str = "Maps decoded at the mean of each state",
) -> Figure:
    """FSC of decoded with back-projected maps, a curve for each state, in the colour of its number.

    Args:
        fsc: of any of the states, for box and pixel size.
    """
    dashes = ("-", "--", ":")
    styles = [[PALETTE[i % len(PALETTE)], dashes[i // len(PALETTE) % 3]] for i in curves]
    return _curves({str(state): curve for state, curve in curves.items()}, fsc, styles, title=title)


def _curves(
    curves: Mapping[str, Float32[Tensor, " shells"]], fsc: FscReport, styles: Sequence[list[str]], *, title: str
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    frequency = np.arange(fsc.box // 2) / (fsc.box * fsc.pixel_A)
    for (name, curve), (colour, dash) in zip(curves.items(), styles, strict=True):
        axes.plot(frequency[: len(curve)], curve, dash, color=colour, label=name)
    axes.axhline(0.5, color=FAINT, linewidth=0.9, linestyle=":")
    low = min((float(curve.min()) for curve in curves.values()), default=0.0)
    axes.set(
        xlim=(0, 0.5 / fsc.pixel_A), ylim=(min(-0.08, max(low, -0.3)), 1.04), ylabel="FSC with the back-projected map"
    )
    ticks = np.linspace(0, 0.5 / fsc.pixel_A, 7)[1:]
    axes.set_xticks(ticks, [f"{1 / place:.1f}" for place in ticks])
    axes.set_xlabel("resolution (Å)")
    axes.set_title(title)
    axes.legend(fontsize=8, loc="lower left", ncols=1 + len(curves) // 9)
    return figure
