"""The report's section on the states of a landscape: the model's map of each beside that of its particles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from cryomorph.analysis.neighbours import SMALLEST_COUNT
from cryomorph.analysis.selection_map import Agreement, SelectionMap, agreement_of, compare_states, corrected_fsc
from cryomorph.io.mrc import write_map
from cryomorph.report import landscape_plots as draw
from cryomorph.report.landscape import percent
from cryomorph.report.left_in_run import FoundLandscape
from cryomorph.report.page import DASH, Block, Cell, Figure, Gallery, Note, Section, Table, Tile
from cryomorph.report.selection import states_plot
from cryomorph.report.selection_files import write_table
from cryomorph.representations.linear import rebox
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import mirror
from cryomorph.volumes.fsc import FscReport

Rgba = Float32[np.ndarray, "h w 4"]
STATE = "state_map"
"""The name of a state's mean map among those that are compared with its particles' map."""
CONTINUUM = "No number of states stands out: they are pieces of a continuum, and their borders are arbitrary."


@dataclass(frozen=True)
class MappedState:
    """The map `[z, y, x]` of a state's particles, its half maps' FSC, and how other maps agree with it.

    `agreement` has what `SelectionMap` has, and the state's mean map; all count the shells that the latter has.
    """

    map: Float32[Tensor, "z y x"]
    fsc: FscReport
    agreement: Mapping[str, Agreement]

    @property
    def decoded(self) -> Agreement:
        """Agreement of the state's mean map."""
        return self.agreement[STATE]


def map_states(
    run: RunFolder, found: FoundLandscape, folder: Path, *, flip_hand: bool = False
) -> dict[int, MappedState]:
    """Back-project each state's particles, and compare its mean map with theirs.

    Writes the maps into `folder/states_reconstructed` as `state_0.mrc` and so on, and `folder/states.csv`. States of
    fewer than 64 particles are left out: in their maps chance decides.
    """
    store = run.store()
    shells = min(store.box, found.means.shape[-1]) // 2
    mapped, rows = {}, {}
    maps = folder / "states_reconstructed"
    maps.mkdir(exist_ok=True)
    for old in (*maps.glob("state_*.mrc"), folder / "states.csv"):
        old.unlink(missing_ok=True)
    few = [state for state, count in enumerate(found.particles) if count < SMALLEST_COUNT]
    if len(few) == found.count:
        return {}
    for state, one in compare_states(run, np.where(np.isin(found.states, few), -1, found.states)):
        both = compare_with(one, rebox(found.means[state], store.box), shells=shells)
        rows[state] = both.figures()
        mapped[state] = MappedState(one.reconstruction.map, one.reconstruction.fsc, both.agreement)
        written = mirror(one.reconstruction.map) if flip_hand else one.reconstruction.map
        write_map(maps / f"state_{state}.mrc", written.numpy(), store.pixel_A)
    write_table(folder / "states.csv", rows)
    return mapped


def compare_with(one: SelectionMap, mean: Float32[Tensor, "z y x"], *, shells: int) -> SelectionMap:
    """A selection's maps with another one beside the decoded ones, compared over the shells that it has."""
    curves = {STATE: corrected_fsc(mean, one.reconstruction)}
    curves |= {name: found.curve for name, found in one.agreement.items()}
    fsc = one.reconstruction.fsc
    return replace(one, agreement={name: agreement_of(curve, fsc, shells=shells) for name, curve in curves.items()})


def states_section(
    found: FoundLandscape,
    *,
    decoded: Sequence[Rgba],
    reconstructed: Mapping[int, Rgba],
    mapped: Mapping[int, MappedState],
    level: float,
) -> Section:
    """The states side by side, how many particles each has, and how far its decoded and reconstructed maps agree.

    Args:
        decoded: a picture of each state's mean map.
        reconstructed: pictures of the maps of those states that are in `mapped`; none where none were made.
        level: the density at which all are drawn.
    """
    blocks: list[Block] = [_gallery(found, decoded, reconstructed, level=level)]
    blocks.append(
        Figure(
            draw.counts_plot(found.sketch, found.particles),
            "Decoded maps that make up each state, and particles whose own map is nearest to one of these. A state of "
            "few particles is a rare conformation, junk, or outliers: its maps above tell which.",
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
                "FSC of each state's mean decoded map with the map of its particles, inside that map's mask and "
                "corrected for it. A curve of a state of few particles comes down early because its reconstruction is "
                f"noisy, not because the model is wrong: see the table. The maps end at {last_A:.1f} Å.",
                "FSC of decoded with reconstructed maps against resolution, for each state",
                vector=True,
            )
        )
    blocks.append(_table(found, mapped))
    if found.clear:
        intro = f"The landscape's {found.count} groups of like maps; the maps themselves suggest {found.suggested}."
    else:
        intro = f"The landscape's {found.count} groups of like maps. {CONTINUUM}"
    return Section("States", tuple(blocks), intro)


def states_notes(found: FoundLandscape, run: RunFolder) -> tuple[Note, ...]:
    """What the report's summary is to say of the states."""
    if not found.clear:
        return (Note(CONTINUUM),)
    if found.suggested == found.count:
        return (Note(f"The maps fall into {found.count} states, which lie apart.", "good"),)
    again = f"`cryomorph landscape {run.path} --states {found.suggested}`"
    return (Note(f"The maps suggest {found.suggested} states, {found.count} were asked for: {again}."),)


def _gallery(
    found: FoundLandscape, decoded: Sequence[Rgba], reconstructed: Mapping[int, Rgba], *, level: float
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
    caption = f"All at one density level ({level:.3g}) and from one side. Decoded: the mean of the model's maps. "
    if reconstructed:
        caption += (
            "Reconstructed: the state's particles back-projected, which owes the model nothing but their choice. "
            "Believe a difference between states that both rows show. Maps of few particles are filtered by what their "
            f"half maps share, and look smooth; those of fewer than {SMALLEST_COUNT} would be chance and are not made."
        )
    else:
        caption += (
            "These maps are the model's alone: `analyze` without --no-reconstruct shows those of the particles too."
        )
    return Gallery(tuple(tiles), caption, stacked=True)


def _table(found: FoundLandscape, mapped: Mapping[int, MappedState]) -> Table:
    total, rows = len(found.states), []
    for state, (maps, count) in enumerate(zip(found.sketch, found.particles, strict=True)):
        row: list[Cell] = [str(state), maps, count, percent(count, total)]
        if state in mapped:
            one = mapped[state]
            names = (STATE, "ceiling", "consensus")
            row += [one.fsc.resolution_0143_A, one.decoded.resolution_05_A]
            row += [f"{one.agreement[name].mean_fsc:.3f}" for name in names]
        elif mapped:
            row += [DASH] * 5
        rows.append(tuple(row))
    columns: tuple[str, ...] = ("state", "maps", "particles", "share")
    caption = "Numbers are 0-based; RUN/landscape/states lists the particles of each."
    if mapped:
        columns += ("half maps, FSC 0.143 (Å)", "decoded, FSC 0.5 (Å)", "mean FSC: decoded", "possible", "consensus")
        caption = (
            "Half maps: the resolution of the map of the state's particles. Decoded: to where the model's map agrees "
            "with it. Mean FSC over the shells in which that map has signal: of the model's map, of a map without "
            "error given so few particles, and of the map of all particles, which a model without states would "
            "reach; the latter is flattered where a state is a large part of all. Numbers are 0-based; "
            "RUN/landscape/states lists the particles of each state, states_reconstructed holds the maps, states.csv "
            "these numbers."
        )
    return Table(columns, tuple(rows), caption)
