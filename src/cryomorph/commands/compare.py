"""`cryomorph compare`: how far two runs on the same particles agree."""

from __future__ import annotations

from cryomorph.config.compare import CompareConfig
from cryomorph.config.console import say
from cryomorph.config.errors import InputError


def compare(config: CompareConfig) -> None:
    """Compare, print the table, and write the report where one is asked for."""
    from cryomorph.analysis.compare import compare_runs
    from cryomorph.report.compare import comparison_report, lines
    from cryomorph.report.page import write_report
    from cryomorph.runs.folder import RunFolder

    runs = RunFolder.open(config.run_a, unfinished=True), RunFolder.open(config.run_b, unfinished=True)
    report = None if config.output is None else config.output / "report.html"
    if config.output is not None and config.output.is_file():
        raise InputError(f"{config.output} is a file: expected a folder for -o")
    if report is not None and report.exists() and not config.overwrite:
        raise InputError(f"{report} exists already: give --overwrite to replace it, or another -o")
    found = compare_runs(*runs, config)
    say(f"{len(found.shared):,} particles shared, by {found.shared.by}")
    rows = list(lines(found))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for what, value, against in rows:
        print(f"{what:{widths[0]}}  {value:>{widths[1]}}  ({against})")
    if report is not None:
        write_report(report, comparison_report(found, *runs))
        found.write(report.parent)
        say(f"report: {report}")
