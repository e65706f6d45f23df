"""`cryomorph motions`: how the Gaussians of a run move."""

from __future__ import annotations

from cryomorph.config.motions import MotionsConfig


def run(config: MotionsConfig) -> None:
    """Describe the motions."""
    from cryomorph.analysis.motion_files import motions

    motions(config)
