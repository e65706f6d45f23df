"""The section on one principal component: particles and maps along it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64

from cryomorph.analysis.latent import Pca
from cryomorph.render.picture import Rgba
from cryomorph.report import latent_plots
from cryomorph.report.page import Block, Figure, Gallery, Section, Tile, check_pictures


def component_section(
    pca: Pca,
    component: int,
    path: Float[np.ndarray, "points q"],
    *,
    pictures: Sequence[Rgba],
    nearest: Int64[np.ndarray, " points"] | None = None,
) -> Section:
    """Maps along a principal component (0-based; shown counted from 1), and the particles along it.

    Args:
        path: the latent points of the maps, from `pc_trajectory`.
        nearest: the particle nearest each point.

    Raises:
        InputError: there are not as many pictures as points.
    """
    check_pictures(pictures, len(path), "map")
    name = f"PC{component + 1}"
    along = pca.projected[:, component]
    place = (path - pca.mean) @ pca.components[component]
    edges = np.concatenate([[-np.inf], 0.5 * (place[1:] + place[:-1]), [np.inf]])
    count = np.histogram(along, bins=edges)[0]
    tiles = []
    for i, picture in enumerate(pictures):
        note = f"{count[i]:,} particles" + (f"; nearest is particle {nearest[i]}" if nearest is not None else "")
        tiles.append(Tile(f"{i} · {name} = {place[i]:.2f}".replace("-", "\N{MINUS SIGN}"), {"": picture}, note))
    share = f"{pca.explained_ratio[component]:.0%} of the variance"
    title = f"{name}: {share}"
    blocks: tuple[Block, ...] = (
        Figure(
            latent_plots.histogram(along, f"{name} (latent units)", marks=place.tolist(), title=title),
            f"Particles along {name}; the numbered lines are the positions of the maps below, from the 5th to the 95th "
            "percentile. Several peaks suggest discrete states, or a motion along a curve, which piles up particles "
            "where it turns; a single peak suggests continuous variability, or noise.",
            f"Histogram of the particles along {name}",
            vector=True,
            wide=True,
        ),
        Gallery(
            tuple(tiles),
            f"Maps along {name}, with all other components at their mean. This is one direction of variability, and "
            "not necessarily a path that the molecule takes: a curved motion involves several components. Particle "
            "counts are of those nearest to each map along the component; where there are few, the map is an "
            "extrapolation of the model.",
        ),
    )
    return Section(f"Along {name}", blocks, f"One direction of variability, which explains {share}.")
