"""Fitting a model to particles: sessions, stages, the trainer and its loop."""
