"""Initial models from images alone: random starts, rounds of refinement, search against a network."""
