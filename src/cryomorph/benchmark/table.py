"""The scores of a benchmark as a table on the terminal."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from cryomorph.benchmark.score_runs import Benchmark, Row

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = {
    "auc": "FSC area",
    "auc_masked": "masked",
    "auc_moving": "moving",
    "gap": "gap closed",
    "gap_moving": "gap closed, moving",
    "knn_r2": "kNN R²",
    "spearman_pc1": "|ρ| PC1",
    "spearman_best": "|ρ| best PC",
    "knn_accuracy": "kNN acc.",
    "ari_kmeans": "ARI",
    "nmi_kmeans": "NMI",
    "ari_gmm": "ARI, GMM",
    "nmi_gmm": "NMI, GMM",
    "entropy10": "entropy",
    "rotation_deg": "rotation (°)",
    "frobenius": "|R - R₀|²",
    "shift_pixel": "shift (px)",
    "shift_A": "shift (Å)",
}


def print_table(found: Benchmark, console: Console | None = None) -> None:
    """Print the consensus, every run and the oracle, without columns that no row has."""
    from rich.console import Console
    from rich.table import Table

    rows = [found.consensus, *found.runs, found.oracle]
    used = [name for name in COLUMNS if any(name in row.scores for row in rows)]
    table = Table(
        title=f"{found.name}: {found.particles} particles, {found.states} states, {len(found.picked)} compared"
    )
    table.add_column("", overflow="fold", min_width=9)
    for name in used:
        table.add_column(COLUMNS[name], justify="right")
    for row in rows:
        table.add_row(row.name, *(_number(row, name) for name in used))
    if console is None:
        # a file or a pipe has no width of its own
        console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(table)


def _number(row: Row, name: str) -> str:
    value = row.scores.get(name)
    return "" if value is None or not math.isfinite(value) else f"{value:.3f}"
