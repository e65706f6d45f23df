"""Figures of a run: one style, colour-blind safe, titles that say what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from jaxtyping import Float, Int64
from scipy.ndimage import gaussian_filter

from cryomorph.analysis.latent import GmmResult, Outliers, Pca
from cryomorph.io.atomic import atomic_path
from cryomorph.volumes.fsc import resolution_A

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by every kind of colour vision; the order puts the strongest contrasts first
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
SCATTER_POINTS = 40_000  # more overplot without showing more
REPRODUCIBLE = 0.5  # two halves agree better than they differ

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


@styled
def density(
    points: Float[np.ndarray, "n 2"], names: tuple[str, str] = ("PC1", "PC2"), *, title: str, unit: bool = True
) -> Figure:
    """Particles in a plane on a logarithmic colour scale, with the contours that hold 50 % and 90 % of them.

    Args:
        unit: False for UMAP, whose axes mean nothing by themselves: they then carry no numbers.
    """
    figure, axes = _canvas(5.0, 4.3)
    (x0, x1), (y0, y1) = _limits(points[:, 0]), _limits(points[:, 1])
    cells = int(np.clip(len(points) ** 0.5 / 1.6, 18, 70))
    drawn = axes.hexbin(
        points[:, 0],
        points[:, 1],
        gridsize=(cells, int(cells * 0.58)),
        extent=(x0, x1, y0, y1),
        bins="log",
        mincnt=1,
        cmap=_density_map(),
        linewidths=0.1,
    )
    _mass_contours(axes, points, ((x0, x1), (y0, y1)))
    bar = figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02)
    bar.set_label("particles per cell")
    bar.outline.set_visible(False)
    _plane(axes, names, title, unit=unit)
    axes.set(xlim=(x0, x1), ylim=(y0, y1))
    return figure


@styled
def clusters(
    points: Float[np.ndarray, "n 2"],
    labels: Int64[np.ndarray, " n"],
    centre_index: Int64[np.ndarray, " k"],
    *,
    names: tuple[str, str] = ("PC1", "PC2"),
    title: str,
    unit: bool = True,
) -> Figure:
    """Particles in a plane, coloured by cluster; each cluster's number stands at its on-data centre."""
    figure, axes = _canvas(5.0, 4.3)
    colours = cluster_colours(len(centre_index))
    _dots(axes, points, colours[labels], alpha=0.75)
    (x0, x1), (y0, y1) = _limits(points[:, 0]), _limits(points[:, 1])
    low, high = np.array([x0, y0]), np.array([x1, y1])
    # a centre among the outliers is drawn at the frame rather than not at all
    places = points[centre_index].clip(low + 0.03 * (high - low), high - 0.03 * (high - low))
    axes.scatter(places[:, 0], places[:, 1], c=colours, s=150, edgecolors="white", linewidths=1.2, zorder=3)
    for number, place in enumerate(places):
        dark = float(colours[number, :3] @ [0.299, 0.587, 0.114]) < 0.6
        axes.annotate(str(number), place, ha="center", va="center_baseline", fontsize=7.5, fontweight="bold",
                      color="white" if dark else INK, zorder=4)  # fmt: skip
    _plane(axes, names, title, unit=unit)
    axes.set(xlim=(x0, x1), ylim=(y0, y1))
    return figure


@styled
def mixture(pca: Pca, gmm: GmmResult) -> Figure:
    """The first two principal components with the ellipses of one and two standard deviations of each Gaussian."""
    from matplotlib.patches import Ellipse

    figure, axes = _canvas(5.0, 4.3)
    axis = pca.components[:2]
    points = pca.projected[:, :2]
    colours = cluster_colours(len(gmm.means))
    _dots(axes, points, colours[gmm.labels], alpha=0.35)
    for number, (mean, covariance, weight) in enumerate(zip(gmm.means, gmm.covariances, gmm.weights, strict=True)):
        centre = axis @ (mean - pca.mean)
        variance, vectors = np.linalg.eigh(axis @ covariance @ axis.T)
        angle_deg = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
        for sd, line in ((1, "-"), (2, "--")):
            width, height = 2 * sd * np.sqrt(variance.clip(min=0))[::-1]
            axes.add_patch(Ellipse((centre[0], centre[1]), width, height, angle=angle_deg, fill=False,
                                   edgecolor=colours[number], linestyle=line, linewidth=1.8))  # fmt: skip
        axes.annotate(f"{number} · {weight:.0%}", (centre[0], centre[1]), ha="center", va="center", fontsize=8,
                      fontweight="bold",
                      bbox={"boxstyle": "round,pad=0.25", "fc": "white", "ec": colours[number]})  # fmt: skip
    _plane(axes, ("PC1", "PC2"), f"A mixture of {len(gmm.means)} Gaussians", unit=True)
    axes.set(xlim=_limits(points[:, 0]), ylim=_limits(points[:, 1]))
    return figure


@styled
def explained_variance(ratio: Float[np.ndarray, " q"]) -> Figure:
    """Share of the latent's variance along each principal component, and the running sum."""
    figure, axes = _canvas(5.0, 3.3)
    number = np.arange(1, len(ratio) + 1)
    bars = axes.bar(number, 100 * ratio, color=BLUE, width=0.65, label="each")
    axes.plot(number, 100 * ratio.cumsum(), color=VERMILLION, marker="o", markersize=4, label="sum so far")
    if len(ratio) <= 12:
        inside = [f"{share:.0%}" if share > 0.1 else "" for share in ratio]
        axes.bar_label(bars, inside, label_type="center", color="white", fontsize=8)
    axes.set(xlabel="principal component", ylabel="variance (%)", ylim=(0, 108), xticks=_few(number))
    axes.set_title(f"PC1 holds {ratio[0]:.0%} of the variance" if len(ratio) else "")
    axes.legend(loc="center right")
    axes.grid(axis="y")
    return figure


@styled
def norm_histogram(found: Outliers) -> Figure:
    """Histogram of `|z|` with the distance beyond which a particle is an outlier."""
    figure, axes = _canvas(5.0, 3.3)
    top = max(float(np.percentile(found.norm, 99.9)), found.cut) * 1.08 or 1.0
    axes.hist(found.norm.clip(max=top), bins=70, range=(0, top), color=SKY)
    axes.axvline(found.cut, color=VERMILLION, linestyle="--")
    right = found.cut < 0.7 * top  # the words go where the bars are not
    axes.annotate(f"cut {found.cut:.2f}", (found.cut, 0.93), (4 if right else -4, 0),
                  xycoords=("data", "axes fraction"), textcoords="offset points",
                  ha="left" if right else "right", color=VERMILLION, fontsize=8.5)  # fmt: skip
    axes.margins(y=0.16)
    share = len(found.index) / len(found.norm)
    axes.set(xlabel="|z|, distance from the latent's origin", ylabel="particles", xlim=(0, top))
    axes.set_title(f"{len(found.index):,} outliers ({share:.1%})")
    return figure


@styled
def histogram(values: Float[np.ndarray, " n"], name: str = "z", *, marks: Sequence[float] = (), title: str) -> Figure:
    """Histogram of one latent coordinate; `marks` are the numbered places at which maps were made."""
    figure, axes = _canvas(5.6, 2.7)
    low, high = _limits(values)
    count, _, _ = axes.hist(values.clip(low, high), bins=60, range=(low, high), color=SKY)
    for number, place in enumerate(marks):
        axes.axvline(place, color=VERMILLION, linewidth=1, ymax=0.9)
        axes.annotate(str(number), (place, 0.92), xycoords=("data", "axes fraction"), ha="center", fontsize=8,
                      color=VERMILLION, fontweight="bold")  # fmt: skip
    axes.set(xlabel=f"{name} (latent units)", ylabel="particles", xlim=(low, high))
    axes.set_ylim(0, 1.16 * float(np.max(count)))
    axes.set_title(title)
    return figure


@styled
def fsc_curves(curves: Mapping[str, Float[np.ndarray, " shells"] | None], *, pixel_A: float, box: int) -> Figure:
    """Fourier shell correlation against resolution, with the thresholds 0.143 and 0.5.

    Args:
        curves: by name (`unmasked`, `masked`, `phase_randomised`, `corrected`, or others); None is left out. The title
            and the marks are those of `corrected`, else of the first.
    """
    figure, axes = _canvas(5.0, 3.3)
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
            axes.plot(1 / at, threshold, "o", color=VERMILLION, markersize=5, zorder=4)
    if main is not None:
        at = resolution_A(drawn[main], pixel_A, 0.143, box=box)
        axes.set_title(f"{at:.1f} Å at FSC 0.143 ({main.replace('_', ' ')})")
        axes.legend(loc="lower left", fontsize=8)
    _resolution_axis(axes, nyquist)
    axes.set(ylabel="Fourier shell correlation", ylim=(min(-0.08, *(c.min() for c in drawn.values())) - 0.02, 1.04))
    return figure


@styled
def noise_spectrum(power: Float[np.ndarray, " shells"], *, pixel_A: float, box: int) -> Figure:
    """Noise power of the images for each Fourier shell, on a logarithmic scale."""
    figure, axes = _canvas(5.0, 3.3)
    shell = np.flatnonzero(power > 0)
    shell = shell[shell > 0]
    axes.plot(shell / (box * pixel_A), power[shell], color=BLUE)
    axes.set_yscale("log")
    axes.set(ylabel="noise power (image units²)")
    ratio = float(power[shell].max() / power[shell].min()) if len(shell) else 1.0
    axes.set_title(
        "The noise is nearly white" if ratio < 1.5 else f"The noise is coloured: {ratio:.1f}-fold over shells"
    )
    _resolution_axis(axes, 0.5 / pixel_A)
    axes.grid(axis="y")
    return figure


@styled
def posterior_spread(std: Float[np.ndarray, "n q"]) -> Figure:
    """Histograms of the posterior standard deviation of each latent component; 1 is the prior: nothing was learnt."""
    figure, axes = _canvas(5.0, 3.3)
    top = max(1.05, float(np.percentile(std, 99.5)) * 1.05)
    median = np.median(std, axis=0)
    for i in range(std.shape[1]):
        axes.hist(std[:, i].clip(max=top), bins=80, range=(0, top), histtype="step", linewidth=1.6,
                  color=PALETTE[i % len(PALETTE)], label=f"{i + 1}: median {median[i]:.2f}",
                  linestyle=("-", "--", ":")[i // len(PALETTE) % 3])  # fmt: skip
    axes.axvline(1, color=FAINT, linestyle=":")
    axes.set(xlabel="posterior standard deviation (prior = 1)", ylabel="particles", xlim=(0, top))
    axes.set_title("How precisely each place is known")
    axes.legend(title="component", fontsize=7.5, title_fontsize=8, ncols=1 + len(median) // 9)
    return figure


@styled
def reproducibility(value: Float[np.ndarray, " q"], *, threshold: float = REPRODUCIBLE) -> Figure:
    """How well each component of one half of the particles is found again in the other half, from 0 to 1."""
    figure, axes = _canvas(5.0, 3.3)
    number = np.arange(1, len(value) + 1)
    good = value >= threshold
    for chosen, colour, hatch in ((good, BLUE, None), (~good, "#C9D1D8", "////")):
        axes.bar(number[chosen], value[chosen].clip(min=0), color=colour, hatch=hatch, edgecolor="white", width=0.65)
    for x, y in zip(number, value, strict=True):
        axes.annotate(f"{max(y, 0):.2f}", (x, max(y, 0)), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    axes.axhline(threshold, color=VERMILLION, linestyle="--", linewidth=1.2)
    axes.annotate("believe these", (1.0, threshold), (0, 3), xycoords=("axes fraction", "data"), ha="right",
                  textcoords="offset points", fontsize=8, color=VERMILLION)  # fmt: skip
    axes.set(xlabel="component", ylabel="agreement of half sets", ylim=(0, 1.08), xticks=_few(number))
    axes.set_xlim(0.4, len(value) + 0.4 + max(0.7, 0.22 * len(value)))  # room for the words beside the last bar
    axes.set_title(f"{int(good.sum())} of {len(value)} components are reproducible")
    return figure


@styled
def convergence(
    objective: Float[np.ndarray, " steps"],
    *,
    name: str = "negative log-likelihood per image",
    step: str = "EM iteration",
    band_grew_at: Sequence[int] = (),
) -> Figure:
    """The objective over the iterations; `band_grew_at` marks steps (0-based) from which more coefficients count."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _canvas(5.0, 3.3)
    axes.plot(np.arange(1, len(objective) + 1), objective, color=BLUE, marker="o", markersize=3)
    for number, at in enumerate(band_grew_at):
        axes.axvline(at + 0.5, color=FAINT, linestyle=":", label="band grows" if number == 0 else None)
    start = max([0, *(at for at in band_grew_at if at < len(objective) - 1)])
    last = objective[start:]
    change = abs(last[-1] - last[-2]) / max(float(np.ptp(last)), 1e-30) if len(last) > 1 else 1.0
    axes.set_title("Converged" if change < 0.02 else f"Last step still {change:.0%} of the descent")
    axes.set(xlabel=step, ylabel=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(axis="y")
    if band_grew_at:
        axes.legend(fontsize=8)
    return figure


def cluster_colours(count: int) -> Float[np.ndarray, "k 4"]:
    """A colour for each cluster: a colour-blind safe ramp, so that neighbouring numbers have neighbouring colours."""
    from matplotlib import colormaps

    return np.asarray(colormaps["viridis"](np.linspace(0.02, 0.88, max(count, 2))))[:count]


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure that no window system knows, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _plane(axes: Axes, names: tuple[str, str], title: str, *, unit: bool) -> None:
    axes.set(xlabel=f"{names[0]} (latent units)" if unit else names[0])
    axes.set(ylabel=f"{names[1]} (latent units)" if unit else names[1])
    axes.set_title(title)
    if not unit:
        axes.set(xticks=[], yticks=[])


def _dots(axes: Axes, points: Float[np.ndarray, "n 2"], colours: Float[np.ndarray, "n 4"], *, alpha: float) -> None:
    """A dot for each particle, of a random choice where there are too many to see."""
    shown = np.arange(len(points))
    if len(shown) > SCATTER_POINTS:
        shown = np.random.default_rng(0).choice(len(points), SCATTER_POINTS, replace=False)
    size = float(np.clip(9000 / len(shown), 1.2, 14))
    x, y = points[shown].T
    axes.scatter(x, y, c=colours[shown], s=size, alpha=alpha, linewidths=0, rasterized=True)


def _limits(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The range of all but the farthest 0.2 % of values, with a margin: a few outliers must not squeeze the rest."""
    low, high = (float(v) for v in np.percentile(values, [0.1, 99.9]))
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def _mass_contours(
    axes: Axes, points: Float[np.ndarray, "n 2"], extent: tuple[tuple[float, float], tuple[float, float]]
) -> None:
    """Contours of the smoothed density inside which 50 % and 90 % of the particles lie."""
    count, x, y = np.histogram2d(points[:, 0], points[:, 1], bins=90, range=extent)
    smooth = gaussian_filter(count, 2.2 if len(points) > 2000 else 3.5)
    falling = np.sort(smooth.ravel())[::-1]
    inside = falling.cumsum() / max(float(falling.sum()), 1e-30)
    levels = np.unique([falling[np.searchsorted(inside, share)] for share in (0.9, 0.5)])
    if len(levels) and levels[0] > 0:
        centres = (0.5 * (x[1:] + x[:-1]), 0.5 * (y[1:] + y[:-1]))
        axes.contour(*centres, smooth.T, levels=levels, colors=[VERMILLION], linewidths=[0.9, 1.4][-len(levels) :])


def _resolution_axis(axes: Axes, nyquist: float) -> None:
    """Spatial frequency along x, labelled by resolution."""
    place = np.linspace(0, nyquist, 7)[1:]
    labels = [f"{1 / f:.0f}" if f < 0.05 else f"{1 / f:.1f}" for f in place]
    axes.set(xlim=(0, nyquist), xlabel="resolution (Å)")
    axes.set_xticks(place, labels)


def _few(number: Int64[np.ndarray, " q"]) -> list[int]:
    """At most about twelve of the ticks."""
    return number[:: max(1, len(number) // 12)].tolist()


def _density_map() -> Colormap:
    """From pale to deep blue, even in lightness."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(
        "density", ["#DCEAF3", "#9CC9E0", "#4F9CC9", "#1C6AA5", "#0B3C6F", "#061D3A"]
    )


@styled
def save_plot(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_path(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})
