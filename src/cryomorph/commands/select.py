"""`cryomorph select`: chosen particles as a file for RELION, cryoSPARC or the next training."""

from __future__ import annotations

from cryomorph.analysis.selection import Selection
from cryomorph.analysis.selection import select as choose
from cryomorph.analysis.selection_files import check_outputs, run_files
from cryomorph.config.select import SelectConfig
from cryomorph.runs.folder import RunFolder


def select(config: SelectConfig) -> Selection:
    """Choose particles, write them, and say how many met which criterion."""
    run = RunFolder.open(config.run, unfinished=True)
    asked = config.criteria
    read = (*run_files(run), *asked.index, *asked.minus, asked.lasso)
    check_outputs(config.output, inputs=read, overwrite=config.overwrite)
    found = choose(run, asked)
    found.save(
        config.output,
        overwrite=config.overwrite,
        original_poses=config.original_poses,
        datadir=config.datadir,
    )
    return found
