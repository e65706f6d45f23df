"""`cryomorph select`: chosen particles as a file for RELION, cryoSPARC or the next training."""

from __future__ import annotations

from cryomorph.analysis.selection import Selection
from cryomorph.analysis.selection import select as choose
from cryomorph.analysis.selection_files import check_free
from cryomorph.config.select import SelectConfig
from cryomorph.runs.folder import RunFolder


def select(config: SelectConfig) -> Selection:
    """Choose particles, write them, and say how many met which criterion."""
    run = RunFolder.open(config.run, unfinished=True)
    check_free([config.output], overwrite=config.overwrite)
    found = choose(run, config.criteria)
    found.save(
        config.output,
        overwrite=config.overwrite,
        original_poses=config.original_poses,
        datadir=config.datadir,
    )
    return found
