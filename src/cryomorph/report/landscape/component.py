"""The section on one component of volume space: particles and maps along it."""

from __future__ import annotations

from collections.abc import Sequence

from cryomorph.analysis.landscape.landscape import Landscape, Trajectory
from cryomorph.render.map_renderer import MapRenderer
from cryomorph.render.picture import Rgba
from cryomorph.report.latent_plots import histogram
from cryomorph.report.page import Block, Figure, Gallery, Section, Tile


def component_section(found: Landscape, number: int, one: Trajectory, *, paint: MapRenderer) -> Section:
    """Particles and maps along a volume component (0-based), decoded and as a straight line."""
    name = f"volume PC{number + 1}"
    share = f"{found.space.ratio[number]:.0%} of the variance"
    along = found.embedding.coordinates[:, number]
    blocks: list[Block] = [
        Figure(
            histogram(along, name, marks=one.position.tolist(), title=f"{name}: {share}"),
            f"Particles along {name}; the numbered lines are the positions of the maps below.",
            f"Particles along {name}",
            vector=True,
            wide=True,
        ),
        trajectory_gallery(
            one, paint(one.decoded, f"maps along {name}"), "decoded for the particles nearest to these positions"
        ),
    ]
    if one.linear is not None:
        note = (
            "on a straight line: the mean map plus a multiple of the eigen-volume. Where density appears in one place "
            "and fades in another, a part moves farther than a single component can find_landscape"
        )
        blocks.append(trajectory_gallery(one, paint(one.linear, f"maps straight along {name}"), note))
    return Section(f"Along {name}", tuple(blocks), f"One direction of volume space, which explains {share}.")


def trajectory_gallery(one: Trajectory, pictures: Sequence[Rgba], what: str) -> Gallery:
    """Maps of a trajectory in a row."""
    places = [f"{place:.2f}".replace("-", "\N{MINUS SIGN}") for place in one.position]
    tiles = [
        Tile(f"{i} · {place}", {"": picture}, f"particle {particle}")
        for i, (place, picture, particle) in enumerate(zip(places, pictures, one.particles, strict=True))
    ]
    return Gallery(tuple(tiles), f"Maps {what}.")
