"""`cryomorph traverse`: maps and a movie along a path through the latent space."""

from __future__ import annotations

from cryomorph.config.traverse import TraverseConfig


def run(config: TraverseConfig) -> None:
    """Follow the path."""
    from cryomorph.analysis.traverse import traverse

    traverse(config)
