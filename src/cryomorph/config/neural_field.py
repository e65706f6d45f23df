"""Options of `cryomorph train neural-field`, and the settings of its recipes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, Never, TypeAlias

import tyro

from cryomorph.config.choices import UNSET, Open
from cryomorph.config.methods import MethodEntry
from cryomorph.config.training import MethodConfig, by_recipe


@dataclass(frozen=True)
class NetworkConfig(Generic[Open]):
    """Sizes of the networks. Options without a default are set by the recipe."""

    width: int | Open = UNSET
    """Width of the field's hidden layers (the papers: 128, 256, 512, 1024)."""
    layers: int | Open = UNSET
    """Number of the field's hidden layers (the papers: 3, 10)."""
    network: Literal["residual", "plain"] | Open = UNSET
    """Hidden layers with skip connections, or without, as in the papers."""
    encoding: Literal["gaussian", "geometric", "geometric-low", "iclr"] | Open = UNSET
    """Positional encoding of Fourier coordinates: random frequencies, or geometric series as in the papers."""
    feature_sigma: float | Open = UNSET
    """Standard deviation of the random frequencies, in units of half the box."""
    feature_share: float | Open = UNSET
    """Number of random frequencies, as a multiple of the box."""
    encoder: Literal["table", "mlp"] | Open = UNSET
    """Source of the latent points: a table with a row for each particle, or a network that sees the image."""
    encoder_width: int | Open = UNSET
    """Width of the encoder network (default: the field's)."""
    encoder_layers: int | Open = UNSET
    """Number of the encoder network's hidden layers (default: the field's)."""
    encoder_radius: float | Open = UNSET
    """Band limit of the images that the encoder network sees, in Fourier pixels (default: none)."""


@dataclass(frozen=True)
class NeuralFieldConfig(MethodConfig[Open]):
    """Train a neural field in Fourier space (cryoDRGN): the full heterogeneous model.

    The default recipe starts from the linear method: the field learns its maps, the table starts from its latent
    points, then both are trained on the images. The paper recipe is the publication's own, for comparison: a
    variational autoencoder, randomly initialised. --zdim 0 gives one map of all particles.
    """

    network: Annotated[NetworkConfig[Open], tyro.conf.arg(name="")] = field(default_factory=NetworkConfig)
    """Sizes of the networks."""


ResolvedNeuralField: TypeAlias = NeuralFieldConfig[Never]

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
    "radius_share": 0.3,
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
    "radius_share": 0.0,
    "patience": 0,
    "warm_steps": 0,
}
RECIPES = {"default": DEFAULT, "paper": PAPER}


def neural_field_by_recipe(config: NeuralFieldConfig[None]) -> NeuralFieldConfig[None]:
    """The config with its recipe's settings wherever the user left the choice open."""
    settings = dict(RECIPES[config.recipe])
    settings.setdefault("beta", 1 / max(config.zdim, 1))
    # a single coordinate is only initialised by the linear stage; several are the linear model's own
    settings["latent_rate"] = 0.3 if config.zdim == 1 else 0.0
    chosen: NeuralFieldConfig[None] = by_recipe(config, settings)
    return chosen


METHOD = MethodEntry(
    "neural-field",
    NeuralFieldConfig,
    method="cryomorph.methods.neural_field:NEURAL_FIELD",
    representation="cryomorph.representations.neural_field:NeuralField",
    encoders={"mlp": "cryomorph.encoders.mlp:MlpEncoder"},
)
