"""Reading a run: latent space, maps, report. Never imports training."""
