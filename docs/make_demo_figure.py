"""Draw README.md's picture from what `make demo` leaves: python docs/make_demo_figure.py [demo/run]."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from cryomorph.analysis import latent
from cryomorph.analysis.decode import decode_at
from cryomorph.analysis.neighbours import Neighbourhoods, reconstruct_near
from cryomorph.render.isosurface import common_level, draw_surface
from cryomorph.render.map_renderer import MapRenderer
from cryomorph.render.raycast import prepare_surface
from cryomorph.report.style import INK, styled
from cryomorph.runs.folder import RunFolder

PICTURE = Path(__file__).parent / "figures" / "demo.png"
POINTS = 6
PIXELS = 230


def landscape(axes: Axes, points: np.ndarray, marked: np.ndarray) -> None:
    """The particles' density in PC1 and PC2, and the numbered particles at which the maps were made."""
    (x0, x1), (y0, y1) = (np.percentile(column, [0.1, 99.9]) for column in points.T)
    extent = (x0 - 0.3, x1 + 0.3, y0 - 0.3, y1 + 0.3)
    pale = mpl.colors.LinearSegmentedColormap.from_list("pale", ["#E3E9EE", "#9DB2C2", "#41566A"])
    axes.hexbin(*points.T, gridsize=(46, 28), extent=extent, bins="log", mincnt=1, cmap=pale, linewidths=0.1)
    axes.plot(*marked.T, color="white", lw=4, zorder=2)
    axes.plot(*marked.T, color=INK, lw=1.2, ls=(0, (3, 2)), zorder=3)
    axes.scatter(*marked.T, s=210, c=colours(), edgecolors="white", linewidths=1.6, zorder=4)
    for number, place in enumerate(marked):
        axes.annotate(str(number + 1), tuple(place), ha="center", va="center_baseline", fontsize=10, weight="bold",
                      color="white", zorder=5)  # fmt: skip
    axes.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[], xlabel="PC1", ylabel="PC2")
    axes.set_title(f"{len(points):,} particles", fontsize=11)


def surfaces(maps: torch.Tensor, paint: MapRenderer) -> np.ndarray:
    """A shaded surface of each map in the colour of its point, on white: (k, h, w, 3)."""
    drawn = [
        draw_surface(
            prepare_surface(volume, paint.level), view=paint.view, size=PIXELS, colour=colour, extent=paint.extent
        )
        for volume, colour in zip(maps, colours(), strict=True)
    ]
    rgba = np.stack(drawn)
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


def cropped(pictures: np.ndarray, margin: int = 8) -> np.ndarray:
    """Pictures (row, column, h, w, 3) without the border that is white in all of them."""
    ink = (pictures < 0.99).any(axis=(0, 1, 4))
    (top, *_, bottom), (first, *_, last) = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    rows, columns = (slice(max(a - margin, 0), b + margin) for a, b in ((top, bottom), (first, last)))
    return pictures[:, :, rows, columns]


def colours() -> list[tuple[float, float, float]]:
    """A colour for each point, from one end of the motion to the other."""
    ramp = mpl.colors.LinearSegmentedColormap.from_list("motion", ["#2C6FB7", "#2FA39A", "#E0A030", "#CF4B3C"])
    return [to_rgb(ramp(place)) for place in np.linspace(0, 1, POINTS)]


@styled
def draw(run: RunFolder) -> None:
    """Choose points along the landscape, make both kinds of maps there, and draw them all."""
    z = run.latent_mean()
    pca = latent.principal_components(z)
    chosen = latent.kmeans_on_data(z, POINTS, seed=0).centre_index
    # from one end of the first principal component to the other
    chosen = chosen[np.argsort(pca.projected[chosen, 0])]
    box = run.store().box
    decoded = torch.stack(list(decode_at(run, z[chosen], box)))
    rebuilt = torch.stack([near.map for near in reconstruct_near(Neighbourhoods.of(run), z[chosen])])
    paint = MapRenderer(common_level(list(decoded)), [decoded, rebuilt], box)

    pictures = cropped(np.stack([surfaces(decoded, paint), surfaces(rebuilt, paint)]))

    figure = Figure(figsize=(13.2, 4.3), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.3))
    landscape(left.subplots(), pca.projected[:, :2], pca.projected[chosen, :2])
    grid = right.subplots(2, POINTS, gridspec_kw={"wspace": 0, "hspace": 0})
    for axes, picture in zip(grid.flat, pictures.reshape(-1, *pictures.shape[2:]), strict=True):
        axes.imshow(picture)
        axes.set_axis_off()
    for number, (axes, colour) in enumerate(zip(grid[0], colours(), strict=True)):
        axes.set_title(str(number + 1), color=colour, fontsize=14, loc="center", pad=2)
    for axes, words in zip(grid[:, 0], ("decoded by the model", "reconstructed"), strict=True):
        axes.text(-0.08, 0.5, words, transform=axes.transAxes, rotation=90, ha="center", va="center", fontsize=10)
    PICTURE.parent.mkdir(exist_ok=True)
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(130)
    canvas.draw()
    # 256 colours are enough for six ramps, and make half the file
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(256, dither=0).save(
        PICTURE, optimize=True
    )


if __name__ == "__main__":
    draw(RunFolder.open(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo/run")))
