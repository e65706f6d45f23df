"""Figures of a latent space: particles in planes and along coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int64
from scipy.ndimage import gaussian_filter

from cryomorph.analysis.latent import GmmResult, Outliers, Pca
from cryomorph.report.style import (
    BLUE,
    FAINT,
    INK,
    PALETTE,
    SKY,
    VERMILLION,
    canvas,
    cluster_colours,
    few_ticks,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

SCATTER_POINTS = 40_000  # more would hide one another
PCS = ("PC1 (latent units)", "PC2 (latent units)")


@styled
def density(
    points: Float[np.ndarray, "n 2"], names: tuple[str, str] = PCS, *, title: str, numbers: bool = True
) -> Figure:
    """Density of the particles in a plane on a logarithmic colour scale, with contours that enclose 50 % and 90 %.

    Args:
        numbers: False for UMAP, whose coordinates mean nothing by themselves.
    """
    figure, axes = canvas(5.0, 4.3)
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
    _plane(axes, names, title, numbers=numbers)
    axes.set(xlim=(x0, x1), ylim=(y0, y1))
    return figure


@styled
def clusters(
    points: Float[np.ndarray, "n 2"],
    labels: Int64[np.ndarray, " n"],
    centre_index: Int64[np.ndarray, " k"],
    *,
    names: tuple[str, str] = PCS,
    title: str,
    numbers: bool = True,
) -> Figure:
    """Particles in a plane, coloured by cluster, with each cluster's number at its central particle."""
    figure, axes = canvas(5.0, 4.3)
    colours = cluster_colours(len(centre_index))
    _dots(axes, points, colours[labels], alpha=0.75)
    (x0, x1), (y0, y1) = _limits(points[:, 0]), _limits(points[:, 1])
    low, high = np.array([x0, y0]), np.array([x1, y1])
    # a centre among the outliers is drawn at the edge
    places = points[centre_index].clip(low + 0.03 * (high - low), high - 0.03 * (high - low))
    axes.scatter(places[:, 0], places[:, 1], c=colours, s=150, edgecolors="white", linewidths=1.2, zorder=3)
    for number, place in enumerate(places):
        dark = float(colours[number, :3] @ [0.299, 0.587, 0.114]) < 0.6
        axes.annotate(str(number), place, ha="center", va="center_baseline", fontsize=7.5, fontweight="bold",
                      color="white" if dark else INK, zorder=4)  # fmt: skip
    _plane(axes, names, title, numbers=numbers)
    axes.set(xlim=(x0, x1), ylim=(y0, y1))
    return figure


@styled
def mixture(pca: Pca, gmm: GmmResult) -> Figure:
    """The first two principal components with the ellipses of one and two standard deviations of each Gaussian."""
    from matplotlib.patches import Ellipse

    figure, axes = canvas(5.0, 4.3)
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
    _plane(axes, PCS, f"A mixture of {len(gmm.means)} Gaussians", numbers=True)
    axes.set(xlim=_limits(points[:, 0]), ylim=_limits(points[:, 1]))
    return figure


@styled
def explained_variance(ratio: Float[np.ndarray, " q"]) -> Figure:
    """Share of the variance along each principal component, and their cumulative sum."""
    figure, axes = canvas()
    number = np.arange(1, len(ratio) + 1)
    bars = axes.bar(number, 100 * ratio, color=BLUE, width=0.65, label="individual")
    axes.plot(number, 100 * ratio.cumsum(), color=VERMILLION, marker="o", markersize=4, label="cumulative")
    if len(ratio) <= 12:
        inside = [f"{share:.0%}" if share > 0.1 else "" for share in ratio]
        axes.bar_label(bars, inside, label_type="center", color="white", fontsize=8)
    axes.set(xlabel="principal component", ylabel="variance (%)", ylim=(0, 108), xticks=few_ticks(number))
    axes.set_title(f"PC1 explains {ratio[0]:.0%} of the variance" if len(ratio) else "")
    axes.legend(loc="center right")
    axes.grid(axis="y")
    return figure


@styled
def norm_histogram(found: Outliers) -> Figure:
    """Histogram of `|z|` with the distance beyond which a particle is an outlier."""
    figure, axes = canvas()
    top = max(float(np.percentile(found.norm, 99.9)), found.cut) * 1.08 or 1.0
    axes.hist(found.norm.clip(max=top), bins=70, range=(0, top), color=SKY)
    axes.axvline(found.cut, color=VERMILLION, linestyle="--")
    right = found.cut < 0.7 * top  # the label goes where there are no bars
    axes.annotate(f"cutoff {found.cut:.2f}", (found.cut, 0.93), (4 if right else -4, 0),
                  xycoords=("data", "axes fraction"), textcoords="offset points",
                  ha="left" if right else "right", color=VERMILLION, fontsize=8.5)  # fmt: skip
    axes.margins(y=0.16)
    share = len(found.index) / len(found.norm)
    axes.set(xlabel="|z|, distance from the origin of the latent space", ylabel="particles", xlim=(0, top))
    axes.set_title(f"{len(found.index):,} outlier{'s' * (len(found.index) != 1)} ({share:.1%})")
    return figure


@styled
def histogram(values: Float[np.ndarray, " n"], name: str, *, marks: Sequence[float] = (), title: str) -> Figure:
    """Particles along one coordinate; `marks` are the numbered places at which maps were made."""
    figure, axes = canvas(5.6, 2.7)
    low, high = _limits(values)
    count, _, _ = axes.hist(values.clip(low, high), bins=60, range=(low, high), color=SKY)
    for number, place in enumerate(marks):
        axes.axvline(place, color=VERMILLION, linewidth=1, ymax=0.9)
        axes.annotate(str(number), (place, 0.92), xycoords=("data", "axes fraction"), ha="center", fontsize=8,
                      color=VERMILLION, fontweight="bold")  # fmt: skip
    axes.set(xlabel=name, ylabel="particles", xlim=(low, high))
    axes.set_ylim(0, 1.16 * float(np.max(count)))
    axes.set_title(title)
    return figure


@styled
def posterior_spread(std: Float[np.ndarray, "n q"]) -> Figure:
    """Histograms of the posterior standard deviation of each latent component, as a share of the prior's."""
    figure, axes = canvas()
    top = max(1.05, float(np.percentile(std, 99.5)) * 1.05)
    median = np.median(std, axis=0)
    for i in range(std.shape[1]):
        axes.hist(std[:, i].clip(max=top), bins=80, range=(0, top), histtype="step", linewidth=1.6,
                  color=PALETTE[i % len(PALETTE)], label=f"{i + 1}: median {median[i]:.2f}",
                  linestyle=("-", "--", ":")[i // len(PALETTE) % 3])  # fmt: skip
    axes.axvline(1, color=FAINT, linestyle=":")
    axes.set(xlabel="posterior standard deviation (prior = 1)", ylabel="particles", xlim=(0, top))
    axes.set_title("Uncertainty of the latent points")
    axes.legend(title="component", fontsize=7.5, title_fontsize=8, ncols=1 + len(median) // 9)
    return figure


def _plane(axes: Axes, names: tuple[str, str], title: str, *, numbers: bool) -> None:
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.set_title(title)
    if not numbers:
        axes.set(xticks=[], yticks=[])


def _dots(axes: Axes, points: Float[np.ndarray, "n 2"], colours: Float[np.ndarray, "n 4"], *, alpha: float) -> None:
    """A dot for each particle, or for a random subset where there are too many."""
    shown = np.arange(len(points))
    if len(shown) > SCATTER_POINTS:
        shown = np.random.default_rng(0).choice(len(points), SCATTER_POINTS, replace=False)
    size = float(np.clip(9000 / len(shown), 1.2, 14))
    x, y = points[shown].T
    axes.scatter(x, y, c=colours[shown], s=size, alpha=alpha, linewidths=0, rasterized=True)


def _limits(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The range of the central 99.8 % of the values, with a margin, so that a few outliers do not squeeze the rest."""
    low, high = (float(v) for v in np.percentile(values, [0.1, 99.9]))
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def _mass_contours(
    axes: Axes, points: Float[np.ndarray, "n 2"], extent: tuple[tuple[float, float], tuple[float, float]]
) -> None:
    """Contours of the smoothed density that enclose 50 % and 90 % of the particles."""
    count, x, y = np.histogram2d(points[:, 0], points[:, 1], bins=90, range=extent)
    smooth = gaussian_filter(count, 2.2 if len(points) > 2000 else 3.5)
    falling = np.sort(smooth.ravel())[::-1]
    inside = falling.cumsum() / max(float(falling.sum()), 1e-30)
    levels = np.unique([falling[np.searchsorted(inside, share)] for share in (0.9, 0.5)])
    if len(levels) and levels[0] > 0:
        centres = (0.5 * (x[1:] + x[:-1]), 0.5 * (y[1:] + y[:-1]))
        axes.contour(*centres, smooth.T, levels=levels, colors=[VERMILLION], linewidths=[0.9, 1.4][-len(levels) :])


def _density_map() -> Colormap:
    """From pale to deep blue, linear in lightness."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(
        "density", ["#DCEAF3", "#9CC9E0", "#4F9CC9", "#1C6AA5", "#0B3C6F", "#061D3A"]
    )
