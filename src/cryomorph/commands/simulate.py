"""`cryomorph simulate`: a particle set with known truth."""

from __future__ import annotations

from cryomorph.config.simulate import SimulateConfig


def simulate(config: SimulateConfig) -> None:
    """Make the set and say where it is."""
    from cryomorph.config.console import say
    from cryomorph.simulation.sets import simulate_set

    folder = simulate_set(config)
    say(f"{folder}: {config.n} particles of {config.box} pixels, {config.apix:g} A each; their truth is in truth.npz")
