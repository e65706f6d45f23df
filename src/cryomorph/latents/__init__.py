"""Latent points without gradient descent: probabilistic PCA, posteriors, priors, the embedding of new particles."""
