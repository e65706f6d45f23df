"""`cryomorph benchmark`: runs scored against a set's truth."""

from __future__ import annotations

from cryomorph.config.benchmark import BenchmarkConfig


def benchmark(config: BenchmarkConfig) -> None:
    """Score the runs, print the table, write the JSON."""
    from cryomorph.benchmark.compare import compare
    from cryomorph.benchmark.table import print_table, write_json
    from cryomorph.config.console import say

    report = compare(config.runs, config.truth, count=config.pick, reconstruct=config.reconstruct)
    write_json(report, config.output)
    print_table(report)
    say(f"{config.output}: all scores, and the particles that were compared")
