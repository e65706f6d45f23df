"""The section on other views: MDS and UMAP of the maps, and the states in latent space."""

from __future__ import annotations

from cryomorph.analysis.landscape.landscape import Landscape
from cryomorph.analysis.latent import principal_components
from cryomorph.report.landscape.plots import by_state
from cryomorph.report.page import Block, Figure, Section


def other_section(found: Landscape) -> Section:
    """The maps in other embeddings, and the states in latent space."""
    blocks: list[Block] = []
    views = [("MDS", found.mds, "preserves the distances between maps as well as a plane can")]
    if found.umap is not None:
        views.append(
            ("UMAP", found.umap, "preserves neighbours; distances between islands and their sizes mean nothing")
        )
    for name, points, what in views:
        plot = by_state(
            points, found.states.sketch, (f"{name} 1", f"{name} 2"), title=f"{name} of the maps", numbers=name == "MDS"
        )
        blocks.append(Figure(plot, f"{name} of the decoded maps, which {what}.", f"Maps by state in {name}"))
    pca = principal_components(found.z)
    if len(pca.components) > 1:
        plot = by_state(
            pca.projected[:, :2],
            found.states.particles,
            ("latent PC1", "latent PC2"),
            title="The states in latent space",
            what="particles",
        )
        blocks.append(
            Figure(
                plot,
                "All particles in the first two principal components of the latent space, coloured by state. Whether "
                "the latent space separates the states depends on the model, not on the molecule.",
                "Particles by state in latent space",
            )
        )
    return Section("Other views", tuple(blocks), "These may show what the principal components do not.")
