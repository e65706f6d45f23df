"""The page of `cryomorph abinit`: whether to trust the map, how it developed, and the viewing directions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int64

from cryomorph.config.errors import InputError
from cryomorph.diagnostics.abinit import no_starts_check, starts_check
from cryomorph.io.mrc import read_map
from cryomorph.io.npy import read_npy
from cryomorph.report.fsc_plots import fsc_curves
from cryomorph.report.page import Block, Figure, Note, Report, Section, Table, write_report
from cryomorph.report.style import BLUE, blank, styled
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

AXES = ("z", "y", "x")
ROUNDS = ("random", "search", "refine")
MOST_PICTURES = 8
SEPARATE = (
    "After the random start, which they share, the two half sets were searched separately, each against its own map."
)
TOGETHER = (
    "All poses were searched against one network, so part of the agreement of the half maps is due to errors that they "
    "share."
)


def write_abinit_report(run: RunFolder) -> Path:
    """Write `RUN/report.html`; returns its path.

    Raises:
        InputError: the run is not one of `cryomorph abinit`, or its records are missing.
    """
    path = run.path / "report.html"
    write_report(path, abinit_report(run))
    return path


def abinit_report(run: RunFolder) -> Report:
    """The page, from what the run recorded."""
    path = run.path / METRICS
    if not path.is_file():
        raise InputError(f"{path} is missing: restore it, or run `cryomorph abinit` again")
    records = run.metrics()
    starts = next((row for row in reversed(records) if row.get("stage") == "starts"), None)
    rounds = {int(row["step"]): row for row in records if row.get("stage") in ROUNDS}
    if starts is None and not rounds:
        raise InputError(f"{run.path} has no record of pose searches: it is not a run of `cryomorph abinit`")
    check = no_starts_check() if starts is None else starts_check(starts["log_likelihood"], int(starts["agreeing"]))
    trust = Section("How far to trust it", () if starts is None else (_starts_table(starts),), check.meaning)
    stages = Section(
        "Stages",
        (_rounds_table(list(rounds.values())), *_pictures(run, starts, list(rounds))),
        "The map after each stage as three central slices, white where density is high. The outline should be there "
        "from the first search on and only sharpen afterwards; poses should change less from round to round.",
    )
    store = run.store()
    curves = run.consensus_fsc().by_name()
    last = Section(
        "The map",
        (
            Figure(
                fsc_curves(dict(curves), pixel_A=store.pixel_A, box=store.box),
                f"Fourier shell correlation of the half maps. {SEPARATE if starts else TOGETHER}",
                "Fourier shell correlation of the half maps against resolution",
                vector=True,
            ),
        ),
        "Images alone do not determine the hand: the map and the poses may be those of the mirror image. "
        "Look at helices, or align it with a known map (`cryomorph align`).",
    )
    facts = {"Run": run.path.resolve().name, "Particles": f"{len(store):,}", "Box": f"{store.box}"}
    return Report("Ab initio", (trust, stages, last), facts=facts, summary=(Note(check.meaning, check.verdict),))


def _starts_table(starts: dict[str, Any]) -> Table:
    rows = tuple(
        (f"{number + 1}{' (continued)' if number == starts['best'] else ''}", nats, f"{share:.2f}")
        for number, (nats, share) in enumerate(zip(starts["log_likelihood"], starts["shared"], strict=True))
    )
    return Table(
        ("random start", "held-out log-likelihood (nats per image)", "agrees with the best to (share of the band)"),
        rows,
        "Each start uses other images and another random map. The one that explains held-out images best is continued. "
        "The others are aligned with it, in the hand that fits better, and compared: wrong maps are wrong in different "
        "ways, so starts that agree are rarely wrong.",
    )


def _rounds_table(rounds: list[dict[str, Any]]) -> Table:
    rows = tuple(
        (
            f"{row['step']}",
            str(row["stage"]),
            f"{row['images']:,}",
            f"{row['band']}",
            f"{row['resolution_A']:.2f}" if "resolution_A" in row else Note("–", "missing"),
            f"{row['turned_deg']:.2f}" if "turned_deg" in row else Note("–", "missing"),
            f"{row['moved_A']:.2f}" if "moved_A" in row else Note("–", "missing"),
            f"{row['seconds']:.0f}",
        )
        for row in rounds
    )
    return Table(
        ("round", "kind", "images", "radius (px)", "FSC 0.143 (Å)", "rotation (°)", "shift (Å)", "seconds"),
        rows,
        "A search covers all orientations, a refinement starts from the previous pose; in a random round poses are "
        "drawn at random. Rotation and shift: median change of the poses since the round before. Radius: of the band "
        "that was used, in Fourier pixels.",
    )


def _pictures(run: RunFolder, starts: dict[str, Any] | None, rounds: list[int]) -> list[Block]:
    rounds = shown_rounds(rounds)
    first = [] if starts is None else [f"start-{int(starts['best']) + 1}"]
    names = [*first, *(f"round-{number}" for number in rounds)]
    maps = {name: np.asarray(read_map(run.path / "abinit" / f"{name}.mrc")[0]) for name in names}
    views = {number: _views(run.path / "abinit" / f"views-{number}.npy") for number in rounds}
    return [
        Figure(
            central_slices(maps),
            "Central slices of the map after each stage, perpendicular to z, y and x.",
            "Central slices of the maps, a column for each stage",
            wide=True,
        ),
        Figure(
            view_histograms(views),
            "Viewing directions after each round: number of particles in each of 192 bins of equal area, in Mollweide "
            "projection. Bright spots are preferred views; a wrong map may collect all particles in a few.",
            "Histograms of viewing directions, one for each round",
            wide=True,
        ),
    ]


def _views(path: Path) -> Int64[np.ndarray, " directions"]:
    try:
        return np.asarray(read_npy(path), dtype=np.int64)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({str(error).splitlines()[0]}): run `cryomorph abinit` again"
        ) from error


def shown_rounds(rounds: list[int]) -> list[int]:
    """Rounds to show: all if they are few, else the first, the last and some in between."""
    if len(rounds) <= MOST_PICTURES:
        return rounds
    return [rounds[round(at)] for at in np.linspace(0, len(rounds) - 1, MOST_PICTURES)]


@styled
def central_slices(maps: dict[str, Float32[np.ndarray, "z y x"]]) -> Drawing:
    """Three central slices of each map, a row for each axis and a column for each map."""
    drawing = blank(1.5 * len(maps) + 0.4, 4.8)
    axes = drawing.subplots(3, len(maps), squeeze=False)
    for column, (name, volume) in enumerate(maps.items()):
        high = float(np.abs(volume).max()) or 1.0
        for row in range(3):
            shown = axes[row, column]
            shown.imshow(volume.take(len(volume) // 2, axis=row), cmap="gray", vmin=-0.2 * high, vmax=0.8 * high)
            shown.set_xticks([])
            shown.set_yticks([])
            if row == 0:
                shown.set_title(name, fontsize=9)
            if column == 0:
                shown.set_ylabel(AXES[row])
    return drawing


@styled
def view_histograms(views: dict[int, Int64[np.ndarray, " directions"]]) -> Drawing:
    """Number of particles in each viewing direction, a sphere for each round."""
    import healpix

    drawing = blank(2.6 * max(len(views), 1), 2.0)
    for place, (number, counts) in enumerate(views.items()):
        axes = drawing.add_subplot(1, len(views), place + 1, projection="mollweide")
        edge_x, edge_y = np.linspace(-np.pi, np.pi, 121), np.linspace(-np.pi / 2, np.pi / 2, 61)
        x, y = np.meshgrid((edge_x[1:] + edge_x[:-1]) / 2, (edge_y[1:] + edge_y[:-1]) / 2)
        nside = round((len(counts) / 12) ** 0.5)
        pixel = healpix.ang2pix(nside, np.pi / 2 - y, x % (2 * np.pi))
        drawn = axes.pcolormesh(edge_x, edge_y, counts[pixel], cmap="viridis", vmin=0, rasterized=True)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"round {number}", fontsize=9)
        bar = drawing.colorbar(drawn, ax=axes, shrink=0.7)
        bar.ax.tick_params(labelsize=7, color=BLUE)
    return drawing
