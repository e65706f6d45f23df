"""The figure of a path through the latent space."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from cryomorph.analysis.latent import Pca
from cryomorph.report.latent_plots import density, histogram
from cryomorph.report.style import INK, ORANGE, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def path_figure(
    pca: Pca,
    points: Float64[np.ndarray, "m q"],
    walked: Float64[np.ndarray, "v q"],
    *,
    marks: Iterable[int] = (),
    title: str,
) -> Figure:
    """A path over the density of the particles, in the plane of the two principal components along which it is longest.

    Args:
        points: at which there are maps; the first, the last and those of `marks` are numbered.
        walked: the whole path, also between maps.
    """
    if len(pca.components) == 1:
        few = points[:: -(-len(points) // 20), 0]
        along = pca.projected[:, 0] * pca.components[0, 0] + pca.mean[0]
        return histogram(along, "z (latent units)", marks=few.tolist(), title=title)
    line, dots = ((part - pca.mean) @ pca.components.T for part in (walked, points))
    going = np.ptp(line, axis=0)
    going[going < 1e-6 * going.max()] = 0  # rounding errors of a path along one component: larger components first
    first, second = (int(i) for i in np.sort(np.argsort(-going, kind="stable")[:2]))
    plane = [first, second]
    names = (f"PC{first + 1} (latent units)", f"PC{second + 1} (latent units)")
    figure = density(pca.projected[:, plane], names, title=title)
    axes = figure.axes[0]
    axes.plot(line[:, first], line[:, second], color="white", linewidth=4.2, solid_capstyle="round", zorder=4)
    axes.plot(line[:, first], line[:, second], color=ORANGE, linewidth=1.8, solid_capstyle="round", zorder=5)
    axes.scatter(dots[:, first], dots[:, second], s=26, color=ORANGE, edgecolors="white", linewidths=0.9, zorder=6)
    for number in sorted({0, len(dots) - 1, *marks}):
        axes.annotate(str(number), dots[number, plane], ha="center", va="center_baseline", fontsize=7.5,
                      fontweight="bold", color="white", zorder=7,
                      bbox={"boxstyle": "circle,pad=0.25", "fc": INK, "ec": "white"})  # fmt: skip
    low, high = line[:, plane].min(axis=0), line[:, plane].max(axis=0)
    margin = 0.06 * (high - low).max()
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    axes.set_xlim(min(x0, low[0] - margin), max(x1, high[0] + margin))
    axes.set_ylim(min(y0, low[1] - margin), max(y1, high[1] + margin))
    return figure
