"""How the Gaussians of a run move: modes, paths along them, atomic models that follow."""
