"""A benchmark's report as a table on the terminal and as JSON."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryomorph.benchmark.compare import Report, Row
from cryomorph.io.atomic import atomic_path

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = {
    "auc": "FSC area",
    "auc_masked": "masked",
    "auc_moving": "moving",
    "gap": "gap closed",
    "gap_moving": "gap, moving",
    "knn_r2": "kNN R²",
    "spearman_pc1": "|rho| PC1",
    "spearman_best": "|rho| best",
    "knn_accuracy": "kNN acc.",
    "ari_kmeans": "ARI",
    "nmi_kmeans": "NMI",
    "ari_gmm": "ARI gmm",
    "nmi_gmm": "NMI gmm",
    "entropy10": "entropy",
    "rotation_deg": "rotation °",
    "frobenius": "|R - R₀|²",
    "shift_pixel": "shift px",
    "shift_A": "shift Å",
}


def print_table(report: Report, console: Console | None = None) -> None:
    """Print the consensus, every run and the oracle; columns that no row has are left out."""
    from rich.console import Console
    from rich.table import Table

    rows = [report.consensus, *report.runs, report.oracle]
    used = [name for name in COLUMNS if any(name in row.scores for row in rows)]
    table = Table(
        title=f"{report.name}: {report.particles} particles, {report.states} states, {report.compared} compared"
    )
    table.add_column("", overflow="fold", min_width=9)
    for name in used:
        table.add_column(COLUMNS[name], justify="right")
    for row in rows:
        table.add_row(row.name, *(_number(row, name) for name in used))
    if console is None:
        # a file or a pipe has no width of its own: the table keeps its shape there
        console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(table)


def write_json(report: Report, path: Path) -> None:
    """Write everything that the report holds; a number that is not finite becomes null."""
    rows = [report.consensus, *report.runs, report.oracle]
    content: dict[str, Any] = {
        "set": report.name,
        "folder": str(report.folder),
        "particles": report.particles,
        "states": report.states,
        "compared": report.picked,
        "oracle_width": report.oracle_width,
        "rows": [{"name": row.name, **{key: _finite(value) for key, value in row.scores.items()}} for row in rows],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _number(row: Row, name: str) -> str:
    value = row.scores.get(name)
    return "" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
