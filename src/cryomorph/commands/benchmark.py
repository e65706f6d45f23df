"""`cryomorph benchmark`: runs scored against the truth of a simulated set."""

from __future__ import annotations

from cryomorph.config.benchmark import BenchmarkConfig
from cryomorph.io.atomic import check_output


def benchmark(config: BenchmarkConfig) -> None:
    """Score the runs, print the table and write the scores."""
    from cryomorph.benchmark.score_runs import score_runs
    from cryomorph.benchmark.table import print_table
    from cryomorph.config.console import say

    check_output(config.output, inputs=(config.truth, *config.runs), overwrite=config.overwrite)
    found = score_runs(config.runs, config.truth, count=config.pick, reconstruct=config.reconstruct)
    found.write(config.output)
    print_table(found)
    say(f"{config.output}: all scores, and which particles were compared")
