"""The section on the states of a landscape: the model's map of each next to that of its particles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryomorph.analysis.landscape.files import LandscapeSummary
from cryomorph.analysis.neighbours import SMALLEST_COUNT
from cryomorph.analysis.state_maps import STATE, StateMap
from cryomorph.diagnostics.check import NOTHING
from cryomorph.diagnostics.landscape import CONTINUUM
from cryomorph.render.picture import Rgba
from cryomorph.report.fsc_plots import states_plot
from cryomorph.report.landscape.plots import counts_plot
from cryomorph.report.page import Block, Cell, Figure, Gallery, Section, Table, Tile, percent


def states_section(
    found: LandscapeSummary,
    *,
    decoded: Sequence[Rgba],
    reconstructed: Mapping[int, Rgba],
    mapped: Mapping[int, StateMap],
    level: float,
) -> Section:
    """The states side by side, their particles, and how well their decoded and reconstructed maps agree.

    Args:
        decoded: a picture of each state's mean map.
        reconstructed: pictures of the maps of the states that are in `mapped`; empty where none were made.
        level: the density at which all are drawn.
    """
    blocks: list[Block] = [_gallery(found, decoded, reconstructed, level=level)]
    blocks.append(
        Figure(
            counts_plot(found.sketch, found.particles),
            "Decoded maps in each state, and particles assigned to it. A state of few particles is a rare "
            "conformation, junk or outliers: judge by its maps above.",
            "Counts of maps and particles in each state",
            vector=True,
        )
    )
    if mapped:
        fsc = next(iter(mapped.values())).fsc
        last_A = 2 * max(found.pixel_A, fsc.pixel_A)
        blocks.append(
            Figure(
                states_plot(
                    {state: one.decoded.curve for state, one in mapped.items()},
                    fsc,
                    title="Decoded and reconstructed maps of each state",
                ),
                "FSC of each state's mean decoded map with the reconstruction of its particles, masked and corrected "
                "for the mask. For a state of few particles the curve drops early because the reconstruction is noisy, "
                f"not because the model is wrong: see the table. The maps extend to {last_A:.1f} Å.",
                "FSC of decoded with reconstructed maps against resolution, for each state",
                vector=True,
            )
        )
    blocks.append(_table(found, mapped))
    if found.clear:
        intro = (
            f"The landscape divides the maps into {found.count} groups; the maps themselves suggest {found.suggested}."
        )
    else:
        intro = f"The landscape divides the maps into {found.count} groups. {CONTINUUM}"
    return Section("States", tuple(blocks), intro)


def _gallery(
    found: LandscapeSummary, decoded: Sequence[Rgba], reconstructed: Mapping[int, Rgba], *, level: float
) -> Gallery:
    total = len(found.states)
    tiles = []
    for state, (picture, count) in enumerate(zip(decoded, found.particles, strict=True)):
        pictures = {"decoded" if reconstructed else "": picture}
        if state in reconstructed:
            pictures["reconstructed"] = reconstructed[state]
        few = "; too few for a map" if reconstructed and state not in reconstructed else ""
        tiles.append(
            Tile(f"State {state}", pictures, f"{count:,} particle{'s' * (count != 1)} ({percent(count, total)}){few}")
        )
    caption = (
        f"All at the same density level ({level:.3g}) and in the same view. Decoded: the mean of the model's maps. "
    )
    if reconstructed:
        caption += (
            "Reconstructed: back-projection of the state's particles, which depends on the model only through their "
            "selection. Trust differences between states that both rows show. Maps of few particles are filtered by "
            f"their FSC and look smooth; states of fewer than {SMALLEST_COUNT} particles are not reconstructed, since "
            "noise would dominate."
        )
    else:
        caption += (
            "These maps come from the model alone: `analyze` without --no-reconstruct also shows reconstructions."
        )
    return Gallery(tuple(tiles), caption, stacked=True)


def _table(found: LandscapeSummary, mapped: Mapping[int, StateMap]) -> Table:
    total, rows = len(found.states), []
    for state, (maps, count) in enumerate(zip(found.sketch, found.particles, strict=True)):
        row: list[Cell] = [str(state), maps, count, percent(count, total)]
        if state in mapped:
            one = mapped[state]
            names = (STATE, "ceiling", "consensus")
            row += [one.fsc.resolution_0143_A, one.decoded.resolution_05_A]
            row += [f"{one.agreement[name].mean_fsc:.3f}" for name in names]
        elif mapped:
            row += [NOTHING] * 5
        rows.append(tuple(row))
    columns: tuple[str, ...] = ("state", "maps", "particles", "share")
    caption = "Numbers are 0-based; RUN/landscape/states lists the particles of each."
    if mapped:
        columns += ("half maps, FSC 0.143 (Å)", "decoded, FSC 0.5 (Å)", "mean FSC: decoded", "ceiling", "consensus")
        caption = (
            "Half maps: resolution of the reconstruction of the state's particles. Decoded: resolution to which the "
            "model's map agrees with it. Mean FSC over the shells in which the reconstruction has signal: of the "
            "model's map; of a perfect map, limited by the number of particles (ceiling); and of the consensus map, "
            "which a model without heterogeneity would reach. The latter is inflated for a state that holds a large "
            "share of the particles. Numbers are 0-based; RUN/landscape/states lists the particles of each state, "
            "states_reconstructed holds the maps, states.csv these numbers."
        )
    return Table(columns, tuple(rows), caption)
