"""The section on states: where they lie, their sizes, and what they look like."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.analysis.landscape.landscape import Landscape
from cryomorph.analysis.landscape.states import Suggestion, state_maps
from cryomorph.render.isosurface import draw_surface
from cryomorph.render.map_renderer import SIZE, MapRenderer
from cryomorph.render.raycast import prepare_surface
from cryomorph.report.landscape.plots import by_state, counts_plot, merging_plot, pictures_plot
from cryomorph.report.page import Block, Figure, Gallery, Section, Table, Tile, percent


def state_section(found: Landscape, paint: MapRenderer, means: Float32[Tensor, "m z y x"], *, asked: int) -> Section:
    """The states in volume space, their counts, merging distances, and maps.

    Args:
        means: the mean map of each state.
        asked: the number of states that was asked for.
    """
    states, coordinates = found.states, found.sketch_coordinates
    blocks: list[Block] = []
    for first in range(min(2, coordinates.shape[1] - 1)):
        names = (f"volume PC{first + 1}", f"volume PC{first + 2}")
        plot = by_state(
            coordinates[:, first : first + 2], states.sketch, names, title=f"{len(coordinates)} maps by state"
        )
        caption = (
            "The decoded maps. Rare states are often clear in one plane and hidden in another."
            if first
            else "The decoded maps, coloured by state. Agglomerative clustering joins the most similar maps first, so "
            "maps unlike all others (rare states or junk) stay separate until the end."
        )
        blocks.append(Figure(plot, caption, f"Maps by state in {names[0]} and {names[1]}"))
    counts = (states.volume_counts, states.particle_counts)
    blocks.append(
        Figure(
            counts_plot(*counts),
            "A state of few maps and few particles is a rare conformation, junk or outliers: look at its map. The "
            "particles of each state are listed in states/state_0.txt and so on.",
            "Counts of maps and particles",
            vector=True,
        )
    )
    blocks.append(
        Figure(
            merging_plot(states.suggestion, asked),
            _merging_caption(states.suggestion),
            "Merging distances",
            vector=True,
        )
    )
    pictures = paint(means, "states")
    titles = [f"state {i}: {count:,} ({percent(count, len(found.z))})" for i, count in enumerate(counts[1])]
    blocks.append(
        Figure(
            pictures_plot(pictures, titles),
            f"The mean map of each state, all at the same density level ({paint.level:.3g}) and in the same view.",
            "States side by side",
            wide=True,
        )
    )
    blocks.append(_state_gallery(found, paint))
    rows = tuple(
        (str(state), maps, particles, percent(particles, len(found.z)), str(found.sketch.particles[middle]))
        for state, (maps, particles, middle) in enumerate(zip(*counts, states.middle, strict=True))
    )
    blocks.append(
        Table(
            ("state", "maps", "particles", "share", "central particle"),
            rows,
            "Each particle is assigned to the state of the decoded map nearest to its own. The central particle is "
            "the one whose decoded map is nearest the mean of its state. Numbers are 0-based.",
        )
    )
    return Section("States", tuple(blocks), "Groups of similar maps, and the particles that belong to them.")


def _merging_caption(found: Suggestion) -> str:
    caption = (
        "The distance between the two states that merge next. A step means that merging starts to join states that are "
        "well separated: the number just before it is what the maps suggest. A smooth rise means a continuum."
    )
    if not found.clear:
        return caption
    return (
        f"{caption} Here the distance increases {found.gap:.1f}-fold, and where two of the {found.states} states are "
        f"closest, the density of particles between them is {found.valley:.0%} of the smaller one's peak."
    )


def _state_gallery(found: Landscape, paint: MapRenderer) -> Gallery:
    """Each state's mean map, coloured by the standard deviation within the state."""
    moments = [state_maps(found.sketch.values, found.states.sketch, state) for state in range(found.states.count)]
    spreads = [found.sketch.map(std) for _, std in moments]
    limit = float(np.percentile(torch.stack(spreads)[:, found.mask > 0.5].numpy(), 99))
    tiles = []
    for state, ((mean, _), spread) in enumerate(zip(moments, spreads, strict=True)):
        surface = prepare_surface(found.sketch.map(mean), paint.level)
        picture = draw_surface(
            surface, view=paint.view, size=SIZE, extent=paint.extent, colour_map=spread, colour_limit=max(limit, 1e-20)
        )
        tiles.append(Tile(f"State {state}", {"": picture}, f"{found.states.volume_counts[state]} maps"))
    return Gallery(
        tuple(tiles),
        "The same maps, coloured by the standard deviation within each state: red where its maps still differ, on the "
        "same scale for all. A state that is red everywhere contains more than one structure, or is noisy.",
    )
