"""The section on k-means clusters: where they lie, and their maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from cryomorph.analysis.latent import KMeansResult, Pca
from cryomorph.render.picture import Rgba
from cryomorph.report import latent_plots
from cryomorph.report.page import Block, Figure, Gallery, Section, Tile, check_pictures


def cluster_section(
    pca: Pca,
    clusters: KMeansResult,
    *,
    decoded: Sequence[Rgba],
    reconstructed: Sequence[Rgba | None] | None = None,
    level: float | None = None,
    embedding: Float[np.ndarray, "n 2"] | None = None,
) -> Section:
    """Maps at the central particle of each cluster, decoded and reconstructed side by side.

    Args:
        level: the density at which the maps are drawn.

    Raises:
        InputError: there are not as many pictures as clusters.
    """
    k = len(clusters.centres)
    check_pictures(decoded, k, "decoded")
    blocks: list[Block] = []
    if len(pca.components) > 1:
        plane = latent_plots.clusters(
            pca.projected[:, :2], clusters.labels, clusters.centre_index, title=f"{k} clusters in PC1 and PC2"
        )
        caption = (
            "k-means divides the particles into regions of similar structure; each number stands at the cluster's "
            "central particle, or at the edge of the plot if that lies outside. It always finds the requested number "
            "of clusters: borders within one cloud cut through a continuum and do not separate states. Clusters with "
            "neighbouring numbers are neighbours in latent space."
        )
        blocks.append(Figure(plane, caption, "Particles in PC1 and PC2 coloured by cluster"))
    if embedding is not None:
        plane = latent_plots.clusters(
            embedding,
            clusters.labels,
            clusters.centre_index,
            names=("UMAP 1", "UMAP 2"),
            title=f"The same {k} clusters in UMAP",
            numbers=False,
        )
        caption = "The same clusters in the UMAP plane. A cluster that is split here may contain two structures."
        blocks.append(Figure(plane, caption, "Particles in the UMAP plane coloured by cluster"))
    blocks.append(_gallery(clusters, decoded, reconstructed, level=level))
    return Section("Clusters", tuple(blocks), "Representative structures from all regions of the latent space.")


def _gallery(
    clusters: KMeansResult,
    decoded: Sequence[Rgba],
    reconstructed: Sequence[Rgba | None] | None,
    *,
    level: float | None,
) -> Gallery:
    caption = (
        "One map for each cluster, all at the same density level" + (f" ({level:.3g})" if level is not None else "")
    ) + ". Decoded: the model's map at the particle nearest the cluster's centre. "
    if reconstructed is None:
        caption += "These maps come from the model alone; reconstruct a cluster's particles before relying on its map."
    else:
        check_pictures(reconstructed, len(clusters.centres), "reconstructed")
        caption += (
            "Reconstructed: back-projection of the particles near that point, without the model. Trust differences "
            "between clusters that both kinds of maps show. A feature that only the decoded map has may be invented by "
            "the model; reconstructions of small clusters are noisy."
        )
    tiles = []
    for i, picture in enumerate(decoded):
        pictures = {"decoded" if reconstructed is not None else "": picture}
        if reconstructed is not None and (other := reconstructed[i]) is not None:
            pictures["reconstructed"] = other
        count = int(clusters.counts[i])
        note = f"{count:,} particles ({count / len(clusters.labels):.1%}), centre: particle {clusters.centre_index[i]}"
        tiles.append(Tile(f"Cluster {i}", pictures, note))
    return Gallery(tuple(tiles), caption)
