"""`cryomorph encode`: latent points of new particles under a trained model."""

from __future__ import annotations

from cryomorph.config.encode import EncodeConfig


def run(config: EncodeConfig) -> None:
    """Encode particles into a run of their own."""
    from cryomorph.training.encode import encode_particles

    encode_particles(config)
