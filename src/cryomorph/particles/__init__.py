"""Particle metadata in one convention, the prepared store and its loader."""
