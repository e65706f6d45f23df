"""Particle sets with known truth."""
