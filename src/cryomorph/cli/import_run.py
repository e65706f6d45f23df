"""`cryomorph import`: a cryoDRGN run becomes one of ours."""

from __future__ import annotations

from cryomorph.config.import_run import ImportConfig


def run(config: ImportConfig) -> None:
    """Import latent points and decoder."""
    from cryomorph.training.import_cryodrgn import import_cryodrgn

    import_cryodrgn(config)
