"""Ab initio reconstruction: random starts, rounds of refinement, search against a network."""
