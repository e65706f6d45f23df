"""The section on the Gaussian mixture: its components and their maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cryomorph.analysis.latent import GmmResult, Pca
from cryomorph.render.picture import Rgba
from cryomorph.report import latent_plots
from cryomorph.report.page import Block, Figure, Gallery, Section, Table, Tile, check_pictures

SURE = 0.9  # probability above which an assignment is called confident


def mixture_section(pca: Pca, gmm: GmmResult, *, pictures: Sequence[Rgba] | None = None) -> Section:
    """The Gaussian mixture: its ellipses, its components as a table, and maps at their centres where given.

    Raises:
        InputError: there are not as many pictures as components.
    """
    k = len(gmm.means)
    count = np.bincount(gmm.labels, minlength=k)
    sure = gmm.probability.max(axis=1) > SURE
    blocks: list[Block] = []
    if len(pca.components) > 1:
        blocks.append(
            Figure(
                latent_plots.mixture(pca, gmm),
                "Each Gaussian has its own size and orientation. Solid line: one standard deviation; dashed: two. "
                "Labels give each Gaussian's number and its share of the particles. Ellipses that overlap widely are "
                "parts of one cloud, not separate states.",
                "Particles in PC1 and PC2 with the ellipses of the mixture",
                wide=True,
            )
        )
    rows = tuple(
        (str(i), int(count[i]), f"{gmm.weights[i]:.1%}", f"{sure[gmm.labels == i].mean() if count[i] else 0:.0%}",
         str(gmm.centre_index[i]))
        for i in range(k)
    )  # fmt: skip
    blocks.append(
        Table(
            ("component", "particles", "weight", "confidently assigned", "centre particle"),
            rows,
            "Confidently assigned: share of a component's particles whose probability of belonging to it is above "
            f"{SURE}; for truly discrete states it is close to 100 %. Numbers are 0-based.",
        )
    )
    if pictures is not None:
        check_pictures(pictures, k, "mixture")
        tiles = (Tile(f"Component {i}", {"": p}, f"{count[i]:,} particles") for i, p in enumerate(pictures))
        blocks.append(Gallery(tuple(tiles), "Maps decoded at the particle nearest the mean of each component."))
    return Section("Gaussian mixture", tuple(blocks), "Clusters that may differ in size, shape and weight.")
