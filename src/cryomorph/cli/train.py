"""`cryomorph train METHOD`: fit a landscape of structures to the particles."""

from __future__ import annotations

from cryomorph.config.linear import LinearConfig


def run(config: LinearConfig) -> None:
    """Fit the method whose options were given."""
    from cryomorph.training.linear import train_linear

    train_linear(config)
