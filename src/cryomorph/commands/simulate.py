"""`cryomorph simulate`: a particle set with known ground truth."""

from __future__ import annotations

from cryomorph.config.simulate import SimulateConfig


def simulate(config: SimulateConfig) -> None:
    """Simulate a particle set and report where it is."""
    from cryomorph.config.console import say
    from cryomorph.simulation.sets import simulate_set

    folder = simulate_set(config)
    say(
        f"{folder}: {config.n} particles of {config.box} pixels, {config.pixel_A:g} A each; their truth is in truth.npz"
    )
