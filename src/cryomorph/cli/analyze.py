"""`cryomorph analyze`: latent space, representative maps and one report.html of a run."""

from __future__ import annotations

from cryomorph.config.analyze import AnalyzeConfig


def run(config: AnalyzeConfig) -> None:
    """Analyse the run."""
    from cryomorph.analysis.analyze import analyze

    analyze(config)
