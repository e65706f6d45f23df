"""Draw the papers' sets as cryoDRGN's Fig. 3 shows them: python docs/make_papers_figure.py FOLDER.

FOLDER holds, for each set of docs/methods.md, "Simulation", what these two commands write (`--zdim 1`; 8 for
compositional):

    cryomorph simulate uniform -o FOLDER/uniform -n 10000 --box 64 --pixel-A 4 --snr 0.1 --seed 1
    cryomorph train neural-field FOLDER/uniform/particles.star -o FOLDER/uniform_run --zdim 1
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from scipy.stats import spearmanr
from sklearn.cluster import KMeans

from cryomorph.analysis.decode import decode_at
from cryomorph.render.isosurface import common_level
from cryomorph.render.map_renderer import MapRenderer
from cryomorph.runs.folder import RunFolder

PICTURE = Path(__file__).parent / "figures" / "papers_sets.png"
SETS = ("uniform", "cooperative", "noncontiguous", "compositional")
MAPS = 5
INK = "#27405A"


def main(folder: Path) -> None:
    """Print the scores of every set and draw them."""
    figure = Figure(figsize=(11, 2.3 * len(SETS)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(SETS), MAPS + 2, width_ratios=[1.5, 1.1] + [1] * MAPS)
    for row, name in enumerate(SETS):
        run = RunFolder.open(folder / f"{name}_run")
        truth = np.load(folder / name / "truth.npz")
        latent = run.latent_mean()
        axes = figure.add_subplot(grid[row, 0])
        if latent.shape[1] == 1:
            points = continuous(axes, figure.add_subplot(grid[row, 1]), latent[:, 0], truth["coord"].ravel(), name)
        else:
            points = discrete(axes, figure.add_subplot(grid[row, 1]), latent, truth["label"], name)
        maps = torch.stack(list(decode_at(run, points, run.store().box)))
        paint = MapRenderer(common_level(maps), [maps], run.store().box)
        for column, picture in enumerate(paint(maps, name)):
            shown = figure.add_subplot(grid[row, 2 + column])
            shown.imshow(picture)
            shown.set_axis_off()
    figure.savefig(PICTURE, dpi=110)


def continuous(axes: Axes, other: Axes, latent: np.ndarray, angle: np.ndarray, name: str) -> np.ndarray:
    """The latent coordinate over the true angle, and its histogram; points for maps from end to end."""
    rank = float(spearmanr(latent, angle)[0])
    print(f"{name}: |Spearman| {abs(rank):.4f}")
    latent = latent * np.sign(rank)
    axes.hexbin(np.rad2deg(angle), latent, gridsize=40, bins="log", mincnt=1, cmap="Blues", linewidths=0.1)
    axes.set(xlabel="true angle (degrees)", ylabel="z")
    axes.set_title(f"{name}: |Spearman| {abs(rank):.3f}", fontsize=10)
    other.hist(latent, bins=60, color=INK)
    other.set(xlabel="z", yticks=[])
    return np.percentile(latent, np.linspace(3, 97, MAPS))[:, None] * np.sign(rank)


def discrete(axes: Axes, other: Axes, latent: np.ndarray, label: np.ndarray, name: str) -> np.ndarray:
    """The first two latent coordinates by true class, and the k-means classes against the true ones."""
    classes = len(np.unique(label))
    found = KMeans(classes, n_init=10, random_state=0).fit(latent)
    table = np.array([[np.sum((label == i) & (found.labels_ == j)) for j in range(classes)] for i in range(classes)])
    rows, columns = linear_sum_assignment(-table)
    correct = table[rows, columns].sum() / len(label)
    print(f"{name}: k-means {correct:.2%} correct")
    pca = np.linalg.svd(latent - latent.mean(0), full_matrices=False)
    shown = pca[0][:, :2] * pca[1][:2]
    for kind in range(classes):
        axes.scatter(*shown[label == kind].T, s=1, label=f"{kind + 1}", rasterized=True)
    axes.set(xlabel="PC1", ylabel="PC2")
    axes.set_title(f"{name}: {correct:.1%} by k-means", fontsize=10)
    other.imshow(table[:, columns] / table.sum(1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
    other.set(xlabel="k-means", ylabel="truth", xticks=range(classes), yticks=range(classes))
    return found.cluster_centers_[columns]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
