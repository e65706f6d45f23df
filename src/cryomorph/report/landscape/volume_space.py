"""The section on volume space: where the particles lie in it, and what its components mean."""

from __future__ import annotations

from jaxtyping import Float32
from torch import Tensor

from cryomorph.analysis.landscape.landscape import Landscape
from cryomorph.render.isosurface import draw_surface
from cryomorph.render.map_renderer import SIZE, MapRenderer
from cryomorph.render.raycast import prepare_surface
from cryomorph.report.latent_plots import density, explained_variance
from cryomorph.report.page import Block, Figure, Gallery, Section, Tile


def space_section(found: Landscape, paint: MapRenderer, canvas: Float32[Tensor, "z y x"]) -> Section:
    """Density of the particles, explained variance, and the eigen-volumes painted on a map.

    Args:
        canvas: a map with the density of all states.
    """
    space, coordinates = found.space, found.embedding.coordinates
    blocks: list[Block] = []
    for first in range(min(2, len(space.ratio) - 1)):
        names = (f"volume PC{first + 1}", f"volume PC{first + 2}")
        title = f"PC{first + 1} and PC{first + 2} explain {space.ratio[first : first + 2].sum():.0%} of the variance"
        blocks.append(
            Figure(
                density(coordinates[:, first : first + 2], names, title=title),
                "All particles. Unlike in latent space, distances here are distances between maps: dense regions are "
                "structures that many particles have. The lines enclose 50 % and 90 % of the particles. Uncertainty "
                "of the latent points blurs sharp features.",
                f"Particles in {names[0]} and {names[1]}",
            )
        )
    blocks.append(
        Figure(
            explained_variance(space.ratio),
            "Share of the variance of the decoded maps along each volume component. A motion that carries density "
            "farther than its own width needs several components: their number is not the number of motions.",
            "Explained variance",
            vector=True,
        )
    )
    surface = prepare_surface(canvas, paint.level)
    tiles = []
    for component in range(min(4, len(space.ratio))):
        painted = draw_surface(
            surface, view=paint.view, size=SIZE, extent=paint.extent, colour_map=space.eigenvolume(component)
        )
        tiles.append(Tile(f"PC{component + 1}", {"": painted}, f"{space.ratio[component]:.1%} of the variance"))
    blocks.append(
        Gallery(
            tuple(tiles),
            "The eigen-volumes (pca/pc1.mrc and so on), painted on the combined density of all states: red where "
            "density appears as the coordinate increases, blue where it disappears.",
        )
    )
    return Section(
        "Volume space",
        tuple(blocks),
        "Principal components of the maps: coordinates with a physical meaning, whatever the latent space looks like.",
    )
