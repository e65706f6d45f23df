"""Figures against resolution: Fourier shell correlation and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32
from torch import Tensor

from cryomorph.analysis.selection_map import SelectionMap
from cryomorph.report.style import BLUE, FAINT, ORANGE, PALETTE, SKY, VERMILLION, canvas, resolution_axis, styled
from cryomorph.volumes.fsc import FscReport, is_nyquist, resolution_A

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def fsc_curves(curves: Mapping[str, Float[np.ndarray, " shells"] | None], *, pixel_A: float, box: int) -> Figure:
    """Fourier shell correlation against resolution, with the thresholds 0.143 and 0.5.

    Args:
        curves: by name (`unmasked`, `masked`, `phase_randomised`, `corrected`, or others); None is left out. The title
            and the marks are those of `corrected`, else of the first.
    """
    figure, axes = canvas()
    known = {"unmasked": FAINT, "masked": SKY, "phase_randomised": ORANGE, "corrected": BLUE}
    drawn = {name: curve for name, curve in curves.items() if curve is not None}
    spare = iter(PALETTE * len(drawn))
    for name, curve in drawn.items():
        frequency = np.arange(len(curve)) / (box * pixel_A)
        axes.plot(frequency, curve, label=name.replace("_", " "), color=known.get(name) or next(spare),
                  linewidth=2.4 if name == "corrected" else 1.5)  # fmt: skip
    main = "corrected" if "corrected" in drawn else next(iter(drawn), None)
    nyquist = 0.5 / pixel_A
    for threshold in (0.143, 0.5):
        axes.axhline(threshold, color=FAINT, linewidth=0.9, linestyle=":")
        axes.annotate(f"{threshold}", (nyquist, threshold), (0, 2), textcoords="offset points", ha="right",
                      fontsize=8, color=FAINT)  # fmt: skip
        if main is not None:
            at = resolution_A(drawn[main], pixel_A, threshold, box=box)
            if not is_nyquist(at, pixel_A):
                axes.plot(1 / at, threshold, "o", color=VERMILLION, markersize=5, zorder=4)
    if main is not None:
        at = resolution_A(drawn[main], pixel_A, 0.143, box=box)
        better = " or better" * is_nyquist(at, pixel_A)
        axes.set_title(f"{at:.1f} Å{better} at FSC 0.143 ({main.replace('_', ' ')})")
        axes.legend(loc="lower left", fontsize=8, frameon=True, framealpha=0.9, edgecolor="none")
    resolution_axis(axes, nyquist)
    axes.set(ylabel="Fourier shell correlation", ylim=(min(-0.08, *(c.min() for c in drawn.values())) - 0.02, 1.04))
    return figure


@styled
def noise_spectrum(power: Float[np.ndarray, " shells"], *, pixel_A: float, box: int) -> Figure:
    """Noise power of the images by Fourier shell, on a logarithmic scale where it varies much."""
    figure, axes = canvas()
    shell = np.flatnonzero(power > 0)
    shell = shell[shell > 0]
    axes.plot(shell / (box * pixel_A), power[shell], color=BLUE)
    axes.set(ylabel="noise power (image units²)")
    ratio = float(power[shell].max() / power[shell].min()) if len(shell) else 1.0
    if ratio < 1.5:
        axes.set_ylim(bottom=0)
    else:
        axes.set_yscale("log")
    axes.set_title(
        "The noise is nearly white" if ratio < 1.5 else f"Noise power varies {ratio:.1f}-fold with resolution"
    )
    resolution_axis(axes, 0.5 / pixel_A)
    axes.grid(axis="y")
    return figure


@styled
def agreement_plot(found: SelectionMap) -> Figure:
    """FSC of each compared map with the reconstructed one."""
    drawn = {
        "ceiling": (found.agreement["ceiling"], FAINT, "--"),
        "decoded at the mean": (found.agreement["mean"], BLUE, "-"),
        "decoded at the nearest particle": (found.agreement["nearest"], ORANGE, "--"),
        "consensus": (found.agreement["consensus"], VERMILLION, "-"),
    }
    curves = {name: one.curve for name, (one, *_) in drawn.items()}
    mean, ceiling = found.agreement["mean"].mean_fsc, found.agreement["ceiling"].mean_fsc
    title = f"Decoded: mean FSC {mean:.2f} (ceiling {ceiling:.2f})"
    return _curves(curves, found.reconstruction.fsc, [style for _, *style in drawn.values()], title=title)


@styled
def states_plot(
    curves: Mapping[int, Float32[Tensor, " shells"]],
    fsc: FscReport,
    *,
    title: str = "Maps decoded at the mean of each state",
) -> Figure:
    """FSC of decoded with reconstructed maps, one curve for each state.

    Args:
        fsc: of any of the states, for box and pixel size.
    """
    dashes = ("-", "--", ":")
    styles = [[PALETTE[i % len(PALETTE)], dashes[i // len(PALETTE) % 3]] for i in curves]
    return _curves({str(state): curve for state, curve in curves.items()}, fsc, styles, title=title)


def _curves(
    curves: Mapping[str, Float32[Tensor, " shells"]], fsc: FscReport, styles: Sequence[list[str]], *, title: str
) -> Figure:
    figure, axes = canvas(5.6, 3.6)
    frequency = np.arange(fsc.box // 2) / (fsc.box * fsc.pixel_A)
    for (name, curve), (colour, dash) in zip(curves.items(), styles, strict=True):
        axes.plot(frequency[: len(curve)], curve, dash, color=colour, label=name)
    axes.axhline(0.5, color=FAINT, linewidth=0.9, linestyle=":")
    low = min((float(curve.min()) for curve in curves.values()), default=0.0)
    axes.set(ylim=(min(-0.08, max(low, -0.3)), 1.04), ylabel="FSC with the reconstructed map")
    resolution_axis(axes, 0.5 / fsc.pixel_A)
    axes.set_title(title)
    axes.legend(fontsize=8, loc="lower left", ncols=1 + len(curves) // 9)
    return figure
