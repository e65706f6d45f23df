"""The page of an ab initio run: whether to trust it, how the map grew, and from where the particles were seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int64

from cryomorph.abinit.initial_model import FAINT
from cryomorph.config.errors import InputError
from cryomorph.diagnostics.training_record import read_metrics
from cryomorph.io.mrc import read_map
from cryomorph.io.npy import read_npy
from cryomorph.report import plots
from cryomorph.report.page import Block, Figure, Note, Report, Section, Table, show_cell, write_report
from cryomorph.report.plots import BLUE, styled
from cryomorph.runs.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

AXES = ("z", "y", "x")
ROUNDS = ("random", "search", "refine")
MOST_PICTURES = 8
APART = "The two half sets were searched apart, each against its own map, after the random start, which they share."
TOGETHER = "All poses were searched against one network, so that half maps agree in part because it erred for both."


def write_abinit_report(run: RunFolder) -> Path:
    """Write `RUN/report.html`; returns its path.

    Raises:
        InputError: the run is none of `cryomorph abinit`, or its records are gone.
    """
    path = run.path / "report.html"
    write_report(path, abinit_report(run))
    return path


def abinit_report(run: RunFolder) -> Report:
    """The page's content, from what the run left behind."""
    path = run.path / "metrics.jsonl"
    if not path.is_file():
        raise InputError(f"{path} is missing: put it back, or run `cryomorph abinit` anew")
    records = read_metrics(path)
    starts = next((row for row in reversed(records) if row["stage"] == "starts"), None)
    rounds = {int(row["step"]): row for row in records if row["stage"] in ROUNDS}
    if starts is None and not rounds:
        raise InputError(f"{run.path} has no record of searches for poses: it is no run of `cryomorph abinit`")
    verdict = _verdict(starts)
    trust = Section("Can it be trusted?", () if starts is None else (_starts_table(starts),), verdict.text)
    stages = Section(
        "Stages",
        (_rounds_table(list(rounds.values())), *_pictures(run, starts, list(rounds))),
        "Each stage's map by its three central slices, white where density is high. The outline should be there from "
        "the first search on, and only sharpen after it; the poses should move less from round to round.",
    )
    store = run.store()
    curves = run.consensus_fsc()
    last = Section(
        "The map",
        (
            Figure(
                plots.fsc_curves(dict(curves), pixel_A=store.pixel_A, box=store.box),
                f"Agreement of the half maps. {APART if starts else TOGETHER}",
                "Fourier shell correlation of the half maps against resolution",
                vector=True,
            ),
        ),
        "The hand is not known from images alone: the map, and the poses, may be the mirror image. "
        "Look at helices, or lay it upon a known map with `cryomorph align`.",
    )
    facts = {"Run": run.path.resolve().name, "Particles": f"{len(store):,}", "Box": f"{store.box}"}
    return Report("Ab initio", (trust, stages, last), facts=facts, findings=(verdict,))


def _verdict(starts: dict[str, Any] | None) -> Note:
    """Whether a start explains images that it has not seen, and whether independent starts came to one structure."""
    if starts is None:
        return Note(
            "One network from one random beginning: nothing says whether another would come to the same. Run it again "
            "with another --seed, or without --recipe paper, and lay the maps upon each other with `cryomorph align`.",
            "missing",
        )
    shared = [float(share) for share in starts["shared"]]
    agreeing = int(starts["agreeing"])
    if max(starts["log_likelihood"]) < FAINT:
        return Note(
            "No random start explains images held out better than noise does: there is no map to trust. Too little of "
            "a particle shows at low resolution, or there is none: look at 2D class averages of these images.",
            "warning",
        )
    if len(shared) == 1:
        return Note("One random start alone: nothing says whether another would come to the same.", "missing")
    if agreeing > 1:
        nats = max(starts["log_likelihood"])
        return Note(
            f"{agreeing} of {len(shared)} independent random starts came to this structure, and the best explains "
            f"images that it has not seen by {show_cell(nats)} nats each. Below some 5 nats the map may be right at "
            "its lowest resolution alone.",
            "good",
        )
    return Note(
        f"No two of {len(shared)} random starts came to one structure: this map is one guess among several. Give more "
        "--start-images, a lower --start-band, or cleaner particles.",
        "warning",
    )


def _starts_table(starts: dict[str, Any]) -> Table:
    rows = tuple(
        (f"{number + 1}{' (went on)' if number == starts['best'] else ''}", nats, f"{share:.2f}")
        for number, (nats, share) in enumerate(zip(starts["log_likelihood"], starts["shared"], strict=True))
    )
    return Table(
        ("Random start", "Held-out log-likelihood (nats an image)", "Agrees with the best to (share of the band)"),
        rows,
        "Starts are made of different images from different random maps. The one that explains images held out best "
        "goes on. Others are laid upon it, in the better hand, and compared: wrong maps are wrong in different ways, "
        "so starts that agree are seldom wrong.",
    )


def _rounds_table(rounds: list[dict[str, Any]]) -> Table:
    rows = tuple(
        (
            f"{row['step']}",
            str(row["stage"]),
            f"{row['images']:,}",
            f"{row['band']}",
            f"{row['resolution_A']:.2f}" if "resolution_A" in row else Note("none", "missing"),
            f"{row['turned_deg']:.2f}" if "turned_deg" in row else Note("none", "missing"),
            f"{row['moved_A']:.2f}" if "moved_A" in row else Note("none", "missing"),
            f"{row['seconds']:.0f}",
        )
        for row in rounds
    )
    return Table(
        ("Round", "Kind", "Images", "Band", "FSC 0.143 (A)", "Turned (deg)", "Moved (A)", "Seconds"),
        rows,
        "A search looks everywhere, a refinement from where the pose was; random poses are drawn, not found. Turned "
        "and moved are medians of how far poses went from the round before; the band is in Fourier pixels.",
    )


def _pictures(run: RunFolder, starts: dict[str, Any] | None, rounds: list[int]) -> list[Block]:
    rounds = shown_of(rounds)
    first = [] if starts is None else [f"start-{int(starts['best']) + 1}"]
    names = [*first, *(f"round-{number}" for number in rounds)]
    maps = {name: np.asarray(read_map(run.path / "abinit" / f"{name}.mrc")[0]) for name in names}
    views = {number: _views(run.path / "abinit" / f"views-{number}.npy") for number in rounds}
    return [
        Figure(
            central_slices(maps),
            "Central slices through each stage's map, perpendicular to z, y and x.",
            "Central slices of the maps, a row for each stage",
            wide=True,
        ),
        Figure(
            view_histograms(views),
            "From where the particles were seen, after each round: the number of particles in each of 192 directions "
            "of equal area, in Mollweide's projection. Bright spots are preferred views; a wrong map may gather all "
            "particles in a few.",
            "Histograms of viewing directions, one for each round",
            wide=True,
        ),
    ]


def _views(path: Path) -> Int64[np.ndarray, " directions"]:
    try:
        return np.asarray(read_npy(path), dtype=np.int64)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({str(error).splitlines()[0]}): run `cryomorph abinit` anew"
        ) from error


def shown_of(rounds: list[int]) -> list[int]:
    """Rounds to show pictures of: all of a few, else the first, the last and some between."""
    if len(rounds) <= MOST_PICTURES:
        return rounds
    return [rounds[round(at)] for at in np.linspace(0, len(rounds) - 1, MOST_PICTURES)]


@styled
def central_slices(maps: dict[str, Float32[np.ndarray, "z y x"]]) -> Drawing:
    """The three central slices of some maps, a row for each axis and a column for each map."""
    from matplotlib.figure import Figure as Canvas

    drawing = Canvas(figsize=(1.5 * len(maps) + 0.4, 4.8), layout="constrained")
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
    """How many particles were seen from each direction, a sphere for each round."""
    import healpix
    from matplotlib.figure import Figure as Canvas

    drawing = Canvas(figsize=(2.6 * max(len(views), 1), 2.0), layout="constrained")
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
