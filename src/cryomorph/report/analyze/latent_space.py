"""The section on the latent space: where the particles lie, and how well that is known."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from cryomorph.analysis.latent import Pca
from cryomorph.report import latent_plots, training_plots
from cryomorph.report.page import Block, Figure, Section


def latent_section(
    pca: Pca,
    *,
    embedding: Float[np.ndarray, "n 2"] | None = None,
    std: Float[np.ndarray, "n q"] | None = None,
    reproducibility: Float[np.ndarray, " q"] | None = None,
    objective: Float[np.ndarray, " steps"] | None = None,
) -> Section:
    """The particles in principal components and in UMAP, and the evidence for and against what is seen there.

    Args:
        std: posterior standard deviations as a share of the prior's.
        reproducibility: agreement of each component between half sets.
        objective: of the linear fit, by iteration.
    """
    blocks: list[Block] = [_plane(pca)]
    if embedding is not None:
        blocks.append(
            Figure(
                latent_plots.density(embedding, ("UMAP 1", "UMAP 2"), title="UMAP of the latent space", numbers=False),
                "UMAP keeps neighbours together: islands hint at discrete states, bands at continuous motion. The "
                "distances between islands, their sizes and their shapes mean nothing, and noise alone can produce "
                "islands: confirm what you see here in the maps.",
                "Density of the particles in the UMAP plane",
            )
        )
    if reproducibility is not None:
        blocks.append(
            Figure(
                training_plots.half_sets_plot(reproducibility),
                "The model was also fitted to each half of the particles separately. A component found in both halves "
                "has an agreement near 1; one fitted to noise is near 0. Interpret only the components above the line.",
                "Agreement between half sets for each component",
                vector=True,
            )
        )
    if std is not None:
        blocks.append(
            Figure(
                latent_plots.posterior_spread(std),
                "Uncertainty of each particle's coordinates, given that the components are right: a component that "
                "the half sets do not reproduce may look precise here too. Near 0, the image determines the "
                "coordinate; at 1, it says nothing. Particles closer together than this width cannot be "
                "distinguished, whatever the plots above suggest.",
                "Histograms of the posterior standard deviations",
                vector=True,
            )
        )
    if len(pca.components) > 1:
        blocks.append(
            Figure(
                latent_plots.explained_variance(pca.explained_ratio),
                "Share of the variance along each principal component of the latent space. A steep drop means that a "
                "few numbers describe the variability; equal bars mean that no direction stands out.",
                "Share of the variance along each principal component",
                vector=True,
            )
        )
    if objective is not None:
        blocks.append(
            Figure(
                training_plots.convergence_plot(objective),
                "Convergence of the linear fit. The curve should have levelled off.",
                "The objective over the iterations",
                vector=True,
            )
        )
    return Section(
        "Latent space",
        tuple(blocks),
        "Each particle is a point; particles that lie close together have similar structures.",
    )


def _plane(pca: Pca) -> Figure:
    """The density in the first two principal components, or in the only one."""
    if len(pca.components) == 1:
        return Figure(
            latent_plots.histogram(pca.projected[:, 0], "PC1 (latent units)", title="The only latent coordinate"),
            "Particles along the only coordinate of the latent space. Several peaks suggest discrete states, or a "
            "motion along a curve, which piles up particles where it turns; a single peak suggests continuous "
            "variability, or noise.",
            "Histogram of the latent coordinate",
            vector=True,
            wide=True,
        )
    title = f"PC1 and PC2 explain {pca.explained_ratio[:2].sum():.0%} of the variance"
    return Figure(
        latent_plots.density(pca.projected[:, :2], title=title),
        "Number of particles in each cell, on a logarithmic colour scale; the lines enclose 50% and 90% of the "
        "particles, and the few farthest out may lie outside the picture. Separate peaks suggest discrete states, a "
        "ridge suggests continuous motion, a single round cloud either no variability or too much noise. Distances "
        "here are distances in latent space.",
        "Density of the particles in PC1 and PC2",
    )
