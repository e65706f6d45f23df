"""`cryomorph abinit`: a map and poses from images alone."""

from __future__ import annotations

from cryomorph.config.abinit import AbinitConfig


def run(config: AbinitConfig) -> None:
    """Find the poses, then write the page that shows how."""
    from cryomorph.analysis.abinit_report import write_abinit_report
    from cryomorph.config.console import say
    from cryomorph.training.abinit import find_poses

    found = find_poses(config)
    say(f"report: {write_abinit_report(found)}")
