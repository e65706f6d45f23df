"""Draw docs/landscape.md's picture: python docs/make_landscape_figure.py FOLDER, of `cryomorph landscape`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from cryomorph.io.mrc import read_map
from cryomorph.render.isosurface import common_level, draw_surface
from cryomorph.render.map_renderer import MapRenderer
from cryomorph.render.raycast import prepare_surface
from cryomorph.report.landscape.plots import colour

PICTURE = Path(__file__).parent / "figures" / "landscape.png"
PIXELS = 300
MOST = 6  # states shown


def main(folder: Path) -> None:
    """The sketch's maps in the first two volume components, and the mean map of each state."""
    facts = json.loads((folder / "landscape.json").read_text())
    states, place = np.load(folder / "sketch_states.npy"), np.load(folder / "sketch_coordinates.npy")
    rows = facts["states"][:MOST]
    maps = torch.stack([torch.tensor(read_map(folder / "states" / f"state_{row['state']}.mrc")[0]) for row in rows])
    paint = MapRenderer(common_level(list(maps)), [maps], facts["box"])
    figure = Figure(figsize=(11.5, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    columns = -(-len(rows) // 2)
    grid = figure.add_gridspec(2, 1 + columns, width_ratios=[1.7] + [1] * columns)
    axes = figure.add_subplot(grid[:, 0])
    for row in rows:
        state = row["state"]
        axes.scatter(*place[states == state, :2].T, s=20, c=colour(state), linewidths=0, alpha=0.8, zorder=2 + state)
    axes.set(xlabel="volume PC1", ylabel="volume PC2")
    axes.set_title(f"{facts['maps']} maps of {facts['particles']:,} particles", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    for number, (row, volume) in enumerate(zip(rows, maps, strict=True)):
        shown = figure.add_subplot(grid[number // columns, 1 + number % columns])
        tint = to_rgb(colour(row["state"]))
        surface = prepare_surface(volume, paint.level)
        shown.imshow(draw_surface(surface, view=paint.view, size=PIXELS, colour=tint, extent=paint.extent))
        share = row["particles"] / facts["particles"]
        shown.set_title(f"state {row['state']}: {row['particles']:,} ({share:.1%})", fontsize=9)
        shown.set_axis_off()
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
