"""The panel on how far to trust a run: every check in a table."""

from __future__ import annotations

from collections.abc import Sequence

from cryomorph.diagnostics.check import Check
from cryomorph.report.page import Note, Section, Table


def trust_section(checks: Sequence[Check]) -> Section:
    """The panel."""
    rows = tuple((one.name, one.value, one.expected, Note(one.meaning, one.verdict)) for one in checks)
    table = Table(
        ("check", "measured", "expected", "verdict"),
        rows,
        "Caution: outside the expected range. Note: there is no bound that holds for every data set; judge the value "
        "by what it is compared with. All checks use these images alone: errors in the poses, the CTF or the selection "
        "of particles can pass every one of them.",
    )
    return Section("How far to trust it", (table,), "Read this before interpreting the results below.")
