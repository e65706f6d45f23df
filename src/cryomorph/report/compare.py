"""What `cryomorph compare` shows: a table for the terminal, and a page with figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from cryomorph.analysis.comparison import Comparison, LabelAgreement, MapAgreement, NeighbourOverlap
from cryomorph.diagnostics.comparison import comparison_checks
from cryomorph.report.page import Block, Figure, Report, Section, Table, note_of
from cryomorph.report.style import BLUE, FAINT, VERMILLION, canvas, resolution_axis, styled
from cryomorph.runs.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def lines(found: Comparison) -> Iterator[tuple[str, str, str]]:
    """What was measured, its value, and what to compare it with."""
    clusters, ceiling, overlap = found.clusters, found.ceiling, found.overlap
    yield (
        "particles in matched k-means clusters",
        f"{clusters.agreement:.3f}",
        _labels(clusters, ceiling.agreement, clusters.chance),
    )
    yield "k-means clusters, ARI", f"{clusters.ari:.3f}", f"A clustered twice: {ceiling.ari:.3f}; chance: 0"
    yield "k-means clusters, NMI", f"{clusters.nmi:.3f}", f"A clustered twice: {ceiling.nmi:.3f}"
    if found.states is not None:
        states = found.states
        yield "particles in matched landscape states", f"{states.agreement:.3f}", _labels(states, None, states.chance)
        yield "landscape states, ARI", f"{states.ari:.3f}", "chance: 0"
    for size, recall, jaccard, chance in zip(*_columns(overlap), strict=True):
        yield f"shared among {size} nearest neighbours", f"{recall:.3f}", f"chance: {chance:.3f}; Jaccard {jaccard:.3f}"
    yield "latent space of B predicted from A, R²", f"{found.r2[0]:.3f}", "held-out half; chance: 0"
    yield "latent space of A predicted from B, R²", f"{found.r2[1]:.3f}", "held-out half; chance: 0"
    if found.maps is not None:
        maps = found.maps
        at = np.array(maps.resolution_05_A)
        others = f"worst {at.max():.1f} Å; at different particles {maps.others_05_A:.1f} Å"
        yield "maps at the same particles, FSC 0.5", f"{np.median(at):.1f} Å", others
        same, different = maps.mean_fsc
        yield "maps at the same particles, mean FSC", f"{same:.3f}", f"at different particles {different:.3f}"
        yield (
            "maps most similar to that of the same particle",
            f"{maps.matched} of {len(at)}",
            f"chance: 1 of {len(at)}",
        )


def _labels(found: LabelAgreement, ceiling: float | None, chance: float) -> str:
    said = [] if ceiling is None else [f"A clustered twice: {ceiling:.3f}"]
    return "; ".join([*said, f"chance: {chance:.3f}"]) + f" ({found.table.shape[0]} and {found.table.shape[1]} labels)"


def _columns(found: NeighbourOverlap) -> tuple[np.ndarray, ...]:
    return found.size, found.recall, found.jaccard, found.chance


def comparison_report(found: Comparison, run_a: RunFolder, run_b: RunFolder) -> Report:
    """The page: the table, then each part with its figure and how to read it."""
    names = [run.path.resolve().name for run in (run_a, run_b)]
    blocks: list[Block] = [
        Table(
            ("measured", "value", "compare with"),
            tuple(lines(found)),
            "Clusters divide a continuum at arbitrary places, so two good runs need not agree on them: compare their "
            "agreement with that of run A clustered twice from different random starts. Neighbourhoods smaller than "
            "the uncertainty of the latent points have little overlap: see at what size the curve rises. R² does not "
            "require that the coordinates are the same, only that one latent space predicts the other.",
        ),
        Figure(
            overlap_plot(found.overlap),
            "Share of a particle's nearest neighbours in A that are also among its nearest neighbours in B, for "
            "neighbourhoods of several sizes. The dashed line is the overlap expected by chance.",
            "Overlap of neighbourhoods against their size",
            vector=True,
        ),
        Figure(
            table_plot(found.clusters, names, "k-means clusters"),
            "Share of each cluster of A (rows) that falls into each cluster of B (columns, in matched order).",
            "Matched clusters of both runs",
        ),
    ]
    if found.states is not None:
        blocks.append(
            Figure(
                table_plot(found.states, names, "landscape states"),
                "Share of each state of A (rows) that falls into each state of B (columns, in matched order).",
                "Matched states of both runs",
            )
        )
    if found.maps is not None:
        blocks.append(
            Figure(
                maps_plot(found.maps),
                "FSC of the two runs' maps at the same particles, inside a common mask; the dashed line is the mean "
                "FSC of maps at different particles. Agreement means that both runs learnt the same, not that it is "
                "true: both used the same images.",
                "FSC of maps at the same particles",
                vector=True,
            )
        )
    facts = {
        "A": f"{names[0]}: {run_a.config()['method']}, {found.counts[0]:,} particles",
        "B": f"{names[1]}: {run_b.config()['method']}, {found.counts[1]:,} particles",
        "Shared": f"{len(found.shared):,} particles, matched by {found.shared.by}",
        "Poses": f"{found.turn_deg:.2f}° apart (median)",
    }
    section = Section("Agreement", tuple(blocks), "How well two runs on the same particles agree.")
    summary = tuple(note_of(check) for check in comparison_checks(found.summary))
    return Report(f"{names[0]} and {names[1]}", (section,), facts=facts, summary=summary)


@styled
def overlap_plot(found: NeighbourOverlap) -> Drawing:
    """Shared neighbours against the size of the neighbourhood, with chance."""
    figure, axes = canvas()
    axes.plot(found.size, found.recall, "o-", color=BLUE, label="shared")
    axes.plot(found.size, found.chance, "--", color=FAINT, label="by chance")
    axes.set_xscale("log")
    axes.set(xlabel="neighbours", ylabel="share found in both runs", ylim=(0, 1.04))
    axes.set_xticks(found.size, [f"{size:,}" for size in found.size])
    axes.minorticks_off()
    axes.legend()
    axes.grid(axis="y")
    return figure


@styled
def table_plot(found: LabelAgreement, names: list[str], what: str) -> Drawing:
    """Share of each label of A in each label of B, in matched order."""
    figure, axes = canvas(4.6, 4.0)
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
    """FSC of maps at the same particle, and the mean of those at different ones."""
    figure, axes = canvas()
    frequency = np.arange(found.curves.shape[1]) / (found.box * found.pixel_A)
    for number, curve in enumerate(found.curves):
        axes.plot(frequency, curve, color=BLUE, alpha=0.55, linewidth=1.2, label=None if number else "same particle")
    axes.plot(frequency, found.others, "--", color=VERMILLION, label="different particles (mean)")
    axes.axhline(0.5, color=FAINT, linewidth=0.9, linestyle=":")
    axes.set(ylim=(-0.08, 1.04), ylabel="FSC between A and B")
    resolution_axis(axes, 0.5 / found.pixel_A)
    axes.set_title(f"{np.median(found.resolution_05_A):.1f} Å at FSC 0.5 (median)")
    axes.legend(loc="lower left")
    return figure
