"""Encoders: from an image to a latent point."""
