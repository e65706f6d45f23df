"""What `cryomorph train neural-field` may be asked, and what its recipes choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from cryomorph.config.training import MethodConfig, resolved_by


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the networks. Where no default is shown, the recipe chooses."""

    width: int | None = None
    """Width of the field's hidden layers (the papers: 128, 256, 512, 1024)."""
    layers: int | None = None
    """Number of the field's hidden layers (the papers: 3, 10)."""
    network: Literal["residual", "plain"] | None = None
    """Hidden layers with skip connections, or without, as in the papers."""
    encoding: Literal["gaussian", "geometric", "geometric-low", "iclr"] | None = None
    """Positional encoding of frequencies: random ones, or geometric series as in the papers."""
    feature_sigma: float | None = None
    """Width of the random frequencies, in units of half the box."""
    feature_share: float | None = None
    """Number of the random frequencies over the box."""
    encoder: Literal["table", "mlp"] | None = None
    """Where latent points come from: a table with every particle's own, or a network that sees the image."""
    encoder_width: int | None = None
    """Width of the encoder network (default: the field's)."""
    encoder_layers: int | None = None
    """Number of the encoder network's hidden layers (default: the field's)."""
    encoder_band: float | None = None
    """Band limit of what the encoder network sees, in Fourier pixels (default: all)."""


@dataclass(frozen=True)
class NeuralFieldConfig(MethodConfig):
    """Train a neural field in Fourier space (cryoDRGN): the full heterogeneous model.

    The default recipe starts from the linear method: its maps teach the field, its latent points start the table, then
    both are trained on the images. The paper recipe is the publication's own, for comparison: a variational
    autoencoder from a random start. --zdim 0 gives one map of all particles.
    """

    network: Annotated[NetworkConfig, tyro.conf.arg(name="")] = field(default_factory=NetworkConfig)
    """Sizes of the networks."""


DEFAULT: dict[str, Any] = {
    "width": 256,
    "layers": 3,
    "network": "residual",
    "encoding": "gaussian",
    "feature_sigma": 0.7,
    "feature_share": 3.0,
    "encoder": "table",
    "optimiser": "muon",
    "final_latents": "auto",
    "batch_size": 16,
    "learning_rate": 1e-3,
    "rate_schedule": "cosine",
    "beta": 2.0,
    "beta_schedule": "constant",
    "noise": "radial",
    "band_share": 0.3,
    "patience": 3,
    "warm_steps": 300,
}
PAPER: dict[str, Any] = {
    "width": 256,
    "layers": 3,
    "network": "plain",
    "encoding": "geometric",
    "feature_sigma": 0.5,
    "feature_share": 1.5,
    "encoder": "mlp",
    "optimiser": "adam",
    "final_latents": "table",
    "epochs": 20,
    "batch_size": 8,
    "learning_rate": 1e-4,
    "rate_schedule": "constant",
    "beta_schedule": "constant",
    "noise": "white",
    "band_share": 0.0,
    "patience": 0,
    "warm_steps": 0,
}
RECIPES = {"default": DEFAULT, "paper": PAPER}


def resolved(config: NeuralFieldConfig) -> NeuralFieldConfig:
    """The config with everything filled in that was left to the recipe."""
    chosen = dict(RECIPES[config.recipe])
    chosen.setdefault("beta", 1 / max(config.zdim, 1))
    # a single coordinate is only begun by the linear stage; several are the linear model's own
    chosen["latent_rate"] = 0.3 if config.zdim == 1 else 0.0
    found: NeuralFieldConfig = resolved_by(config, chosen)
    return found
