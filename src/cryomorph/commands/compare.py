"""`cryomorph compare`: how far two runs on the same particles agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryomorph.config.compare import CompareConfig
from cryomorph.config.console import say
from cryomorph.io.output_folder import Contents, OutputFolder

if TYPE_CHECKING:
    from cryomorph.analysis.compare import Comparison

REPORT = "report.html"
COMPARISON = Contents("comparison", (REPORT, "compare.json"), marker=REPORT, shared=True)


def compare(config: CompareConfig) -> None:
    """Compare, print the table, and write the report where one is asked for."""
    from cryomorph.analysis.compare import compare_runs
    from cryomorph.report.compare import comparison_report
    from cryomorph.report.page import write_report
    from cryomorph.runs.folder import RunFolder

    runs = RunFolder.open(config.run_a, unfinished=True), RunFolder.open(config.run_b, unfinished=True)
    if config.output is None:
        _print(compare_runs(*runs, config))
        return
    inputs = (config.run_a, config.run_b)
    with OutputFolder(config.output, COMPARISON, inputs=inputs, overwrite=config.overwrite) as output:
        found = compare_runs(*runs, config)
        _print(found)
        write_report(output.scratch / REPORT, comparison_report(found, *runs))
        found.write(output.scratch)
        output.commit()
    say(f"report: {config.output / REPORT}")


def _print(found: Comparison) -> None:
    from cryomorph.report.compare import lines

    say(f"{len(found.shared):,} particles shared, by {found.shared.by}")
    rows = list(lines(found))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for what, value, against in rows:
        print(f"{what:{widths[0]}}  {value:>{widths[1]}}  ({against})")
