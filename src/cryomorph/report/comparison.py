"""What `compare` shows: a table for the terminal, and a page with figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from cryomorph.analysis.compare import TURNED_DEG, Comparison, LabelAgreement, MapAgreement, NeighbourOverlap
from cryomorph.report.page import Block, Figure, Note, Report, Section, Table
from cryomorph.report.plots import BLUE, FAINT, VERMILLION, styled
from cryomorph.runs.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

ALIKE, PARTLY = 0.8, 0.5  # held-out R^2 of one latent from the other above which runs agree, and agree in part


def lines(found: Comparison) -> Iterator[tuple[str, str, str]]:
    """What was measured, its value, and what to hold it against."""
    clusters, ceiling, overlap = found.clusters, found.ceiling, found.overlap
    yield (
        "k-means clusters, matched",
        f"{clusters.agreement:.3f}",
        _labels(clusters, ceiling.agreement, clusters.chance),
    )
    yield "k-means clusters, ARI", f"{clusters.ari:.3f}", f"same run, other start: {ceiling.ari:.3f}; chance: 0"
    yield "k-means clusters, NMI", f"{clusters.nmi:.3f}", f"same run, other start: {ceiling.nmi:.3f}"
    if found.states is not None:
        states = found.states
        yield "landscape states, matched", f"{states.agreement:.3f}", _labels(states, None, states.chance)
        yield "landscape states, ARI", f"{states.ari:.3f}", "chance: 0"
    for size, recall, jaccard, chance in zip(*_columns(overlap), strict=True):
        yield f"shared of {size} nearest neighbours", f"{recall:.3f}", f"chance: {chance:.3f}; Jaccard {jaccard:.3f}"
    yield "latent B from A, R^2", f"{found.r2[0]:.3f}", "held-out half; chance: 0"
    yield "latent A from B, R^2", f"{found.r2[1]:.3f}", "held-out half; chance: 0"
    if found.maps is not None:
        maps = found.maps
        at = np.array(maps.resolution_05_A)
        others = f"worst {at.max():.1f} A; at different particles {maps.others_05_A:.1f} A"
        yield "maps at one particle, FSC 0.5", f"{np.median(at):.1f} A", others
        same, different = maps.mean_fsc
        yield "maps at one particle, mean FSC", f"{same:.3f}", f"at different particles {different:.3f}"
        yield "maps nearest to their own", f"{maps.matched} of {len(at)}", f"chance: 1 of {len(at)}"


def _labels(found: LabelAgreement, ceiling: float | None, chance: float) -> str:
    said = [] if ceiling is None else [f"same run, other start: {ceiling:.3f}"]
    return "; ".join([*said, f"chance: {chance:.3f}"]) + f" ({found.table.shape[0]} and {found.table.shape[1]})"


def _columns(found: NeighbourOverlap) -> tuple[np.ndarray, ...]:
    return found.size, found.recall, found.jaccard, found.chance


def comparison_report(found: Comparison, run_a: RunFolder, run_b: RunFolder) -> Report:
    """The page: the table, then each part with its figure and how to read it."""
    names = [run.path.resolve().name for run in (run_a, run_b)]
    blocks: list[Block] = [
        Table(
            ("Measured", "Value", "To hold it against"),
            tuple(lines(found)),
            "Clusters cut a continuum at arbitrary places, so that two good runs need not agree on them: hold their "
            "agreement against that of one run clustered twice. Neighbourhoods smaller than the noise of the latent "
            "points share little: look where the curve rises. R² does not ask that coordinates be the same, only that "
            "one tells the other.",
        ),
        Figure(
            overlap_plot(found.overlap),
            "Of a particle's nearest neighbours in A, the share that is among its nearest in B, for neighbourhoods of "
            "several sizes. The dashed line is what chance gives.",
            "Overlap of neighbourhoods against their size",
            vector=True,
        ),
        Figure(
            table_plot(found.clusters, names, "k-means clusters"),
            "Share of each cluster of A (rows) that lies in each cluster of B (columns, in matched order).",
            "Matched clusters of both runs",
        ),
    ]
    if found.states is not None:
        blocks.append(
            Figure(
                table_plot(found.states, names, "landscape states"),
                "Share of each state of A (rows) that lies in each state of B (columns, in matched order).",
                "Matched states of both runs",
            )
        )
    if found.maps is not None:
        blocks.append(
            Figure(
                maps_plot(found.maps),
                "FSC of the runs' maps at the same particles, inside one mask; the dashed line is the mean FSC of maps "
                "at different particles. Agreement says that both runs learnt the same, not that it is true: both saw "
                "the same images.",
                "FSC of maps at the same particles",
                vector=True,
            )
        )
    facts = {
        "A": f"{names[0]}: {run_a.config()['method']}, {found.counts[0]:,} particles",
        "B": f"{names[1]}: {run_b.config()['method']}, {found.counts[1]:,} particles",
        "Shared": f"{len(found.shared):,} particles, by {found.shared.by}",
        "Poses": f"{found.turn_deg:.2f}° apart (median)",
    }
    section = Section("Agreement", tuple(blocks), "How far two runs on the same particles say the same.")
    return Report(f"{names[0]} and {names[1]}", (section,), facts=facts, findings=tuple(_notes(found)))


def latents_agree(r2: float) -> Literal["good", "info", "warning"]:
    """What the lower of two runs' R^2 of one latent from the other means."""
    return "good" if r2 > ALIKE else "info" if r2 > PARTLY else "warning"


def _notes(found: Comparison) -> Iterator[Note]:
    low = min(found.r2)
    text = f"Each latent space predicts the other with R² {found.r2[0]:.2f} (B from A) and {found.r2[1]:.2f} (A from B)"
    yield Note(f"{text}, held out.", latents_agree(low))
    share = found.clusters.agreement / max(found.ceiling.agreement, 1e-9)
    text = (
        f"Matched clusters hold {found.clusters.agreement:.0%} of the particles, {share:.0%} of what one run reaches "
    )
    yield Note(f"{text}with itself from another random start.", "good" if share > 0.9 else "info")
    if found.maps is not None:
        count = len(found.maps.curves)
        text = f"At {found.maps.matched} of {count} particles the other run's most similar map is the one at that"
        yield Note(f"{text} particle.", "good" if found.maps.matched > 0.8 * count else "warning")
    if found.one_latent:
        text = "Both runs hold the same latent points, from one stage that they share: their agreement says nothing."
        yield Note(text, "warning")
    if found.turn_deg > TURNED_DEG:
        yield Note(f"The runs' poses differ by {found.turn_deg:.1f}° (median): maps are not in one frame.", "warning")


@styled
def overlap_plot(found: NeighbourOverlap) -> Drawing:
    """Shared neighbours against the size of a neighbourhood, with chance."""
    figure, axes = _canvas()
    axes.plot(found.size, found.recall, "o-", color=BLUE, label="shared")
    axes.plot(found.size, found.chance, "--", color=FAINT, label="by chance")
    axes.set_xscale("log")
    axes.set(xlabel="neighbours", ylabel="share found in both", ylim=(0, 1.04))
    axes.set_xticks(found.size, [f"{size:,}" for size in found.size])
    axes.minorticks_off()
    axes.legend()
    axes.grid(axis="y")
    return figure


@styled
def table_plot(found: LabelAgreement, names: list[str], what: str) -> Drawing:
    """Where each label of A lies in B, in matched order."""
    figure, axes = _canvas(4.6, 4.0)
    share = found.table / np.maximum(found.table.sum(1, keepdims=True), 1)
    drawn = axes.imshow(share, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    figure.colorbar(drawn, ax=axes, shrink=0.85, label="share of the row")
    axes.set(ylabel=f"{what} of {names[0]}", xlabel=f"{what} of {names[1]}")
    axes.set_xticks(np.arange(len(found.columns)), [str(label) for label in found.columns], fontsize=7)
    axes.set_yticks(np.arange(len(share)), [str(label) for label in found.rows], fontsize=7)
    axes.set_title(f"{found.agreement:.0%} in matched pairs (chance {found.chance:.0%})")
    return figure


@styled
def maps_plot(found: MapAgreement) -> Drawing:
    """FSC at each particle, and between different ones."""
    figure, axes = _canvas()
    frequency = np.arange(found.curves.shape[1]) / (found.box * found.pixel_A)
    for number, curve in enumerate(found.curves):
        axes.plot(frequency, curve, color=BLUE, alpha=0.55, linewidth=1.2, label=None if number else "same particle")
    axes.plot(frequency, found.others, "--", color=VERMILLION, label="different particles (mean)")
    axes.axhline(0.5, color=FAINT, linewidth=0.9, linestyle=":")
    ticks = np.linspace(0, 0.5 / found.pixel_A, 7)[1:]
    axes.set(xlim=(0, 0.5 / found.pixel_A), ylim=(-0.08, 1.04), xlabel="resolution (Å)", ylabel="FSC of A and B")
    axes.set_xticks(ticks, [f"{1 / place:.1f}" for place in ticks])
    axes.set_title(f"{np.median(found.resolution_05_A):.1f} Å at FSC 0.5 (median)")
    axes.legend(loc="lower left")
    return figure


def _canvas(width: float = 5.0, height: float = 3.3) -> tuple[Drawing, Axes]:
    from matplotlib.figure import Figure as New

    figure = New(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()
