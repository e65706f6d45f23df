"""What a training recorded while it ran: `metrics.jsonl`, a JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cryomorph.config.console import warn

METRICS = "metrics.jsonl"
NUMBERS = {
    "linear": ("step", "log_likelihood"),
    "joint": ("epoch", "step"),
    "epoch": ("epoch", "held_out"),
    "poses": ("round",),
}
"""What a row of a stage has at least; one of `joint` that measured a loss also has its images."""


def append_metrics(folder: Path, **values: float | int | str | list[float]) -> None:
    """Append one row."""
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run, in the order they were written; none without the file.

    The last line of a killed run may be cut off: it is left out. So are damaged ones, with a warning.
    """
    path = folder / METRICS
    if not path.is_file():
        return []
    rows, wrong = [], []
    *lines, cut = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if cut:
        lines.append(cut)
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if _is_sound(row):
            rows.append(row)
        elif not cut or number < len(lines):
            wrong.append(number)
    if wrong:
        warn(f"{path}: {len(wrong)} of {len(lines)} lines cannot be read, the first is {wrong[0]}: they are left out")
    return rows


def _is_sound(row: Any) -> bool:
    """Whether a row is what `append_metrics` writes: a stage, numbers, lists of numbers, and what its stage has."""
    if not isinstance(row, dict) or not isinstance(row.get("stage"), str):
        return False
    values = [value for key, value in row.items() if key != "stage"]
    lists = all(isinstance(each, int | float) for value in values if isinstance(value, list) for each in value)
    names = (*NUMBERS.get(row["stage"], ()), *(("images", "nll") if "nll" in row else ()))
    needed = all(isinstance(row.get(name), int | float) for name in names) and isinstance(row.get("kl", []), list)
    return lists and needed and all(isinstance(value, int | float | str | list) or value is None for value in values)
