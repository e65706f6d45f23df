"""`cryomorph landscape`: states and coordinates of a run in volume space."""

from __future__ import annotations

from cryomorph.config.landscape import LandscapeConfig


def run(config: LandscapeConfig) -> None:
    """Describe the run's landscape."""
    from cryomorph.analysis.landscape_files import landscape

    landscape(config)
