"""What the molecule looks like at a latent point."""
