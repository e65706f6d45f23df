"""Fitting a model to particles: stages, recipes, and the run folder they fill."""
