"""Where a particle lies in the latent space."""
