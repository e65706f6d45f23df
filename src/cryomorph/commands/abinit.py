"""`cryomorph abinit`: a map and poses from images without known poses."""

from __future__ import annotations

from cryomorph.config.abinit import AbinitConfig


def abinit(config: AbinitConfig) -> None:
    """Estimate poses and maps, then write the report."""
    from cryomorph.abinit.find_poses import find_poses
    from cryomorph.config.console import say
    from cryomorph.diagnostics.model import warn_about_model
    from cryomorph.report.abinit import write_abinit_report

    found = find_poses(config)
    warn_about_model(found)
    say(f"report: {write_abinit_report(found)}")
