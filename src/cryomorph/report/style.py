"""The style of all figures: colours for every kind of colour vision, and how a figure is made and saved."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from jaxtyping import Float, Int64

from cryomorph.io.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, strongest contrasts first
BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE, "#7A7A7A", "#1B1B1B")
INK, FAINT = "#22303C", "#8A97A3"
STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#E4E9ED",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "cryomorph",  # the same figure is the same file
}

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing or saving function in the style of this module, and leave matplotlib's settings as they were."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        from matplotlib import rc_context

        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return inside


def blank(width: float, height: float) -> Figure:
    """A figure without a window, its size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def canvas(width: float = 5.0, height: float = 3.3) -> tuple[Figure, Axes]:
    """A figure without a window, its size in inches, and its axes."""
    figure = blank(width, height)
    return figure, figure.add_subplot()


@styled
def save_plot(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, completely or not at all."""
    with atomic_path(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})


def cluster_colours(count: int) -> Float[np.ndarray, "k 4"]:
    """A colour for each cluster, from a ramp: neighbouring numbers have neighbouring colours."""
    from matplotlib import colormaps

    return np.asarray(colormaps["viridis"](np.linspace(0.02, 0.88, max(count, 2))))[:count]


def few_ticks(number: Int64[np.ndarray, " q"]) -> list[int]:
    """About twelve of the ticks at most."""
    return number[:: max(1, len(number) // 12)].tolist()


def resolution_axis(axes: Axes, nyquist: float) -> None:
    """Spatial frequency along x, labelled by resolution."""
    place = np.linspace(0, nyquist, 7)[1:]
    labels = [f"{1 / f:.0f}" if f < 0.05 else f"{1 / f:.1f}" for f in place]
    axes.set(xlim=(0, nyquist), xlabel="resolution (Å)")
    axes.set_xticks(place, labels)
