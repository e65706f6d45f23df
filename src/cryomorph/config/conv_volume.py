"""What `cryomorph train conv-volume` may be asked, and what its recipes choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from cryomorph.config.training import MethodConfig, resolved_by


@dataclass(frozen=True)
class ConvConfig:
    """The cube, the networks, and what maps cost. Where no default is shown, the recipe chooses."""

    cube: int | None = None
    """Voxels along the side of the cube that stands for the box (default: the box, at most 256); fewer are faster and
    coarser. 2, 3, 5 or 7 times a power of two: others are rounded up."""
    channels: int | None = None
    """Channels of the finest layer below the voxels; each coarser layer has twice as many, up to 2048 at a side of 256
    as in the paper."""
    hidden: int | None = None
    """Width of the fully connected layer from the latent point."""
    encoder: Literal["table", "conv"] | None = None
    """Where latent points come from: a table with every particle's own, or a convolutional network that sees the image,
    turned back into the volume's frame."""
    encoder_cube: Literal[16, 32, 64, 128] | None = None
    """Voxels along the side of the cube that the encoder network sees (the paper: 64)."""
    encoder_channels: int | None = None
    """Channels of the encoder network's first layer; each later one has twice as many (the paper: 16)."""
    variation: float | None = None
    """How much the contrast and the brightness of what the encoder network sees are changed at random in training, 0
    to 1."""
    tv: float | None = None
    """Weight of the mean length of the maps' gradient, in nats of an image (total variation; the paper: 1)."""
    l1: float | None = None
    """Weight of the mean absolute value of the maps, likewise (the paper: 0.3)."""


@dataclass(frozen=True)
class ConvVolumeConfig(MethodConfig):
    """Train a convolutional volume (OPUS-DSD): a network makes a cube of voxels, kept smooth and sparse.

    The default recipe starts from the linear method: the network adds to the consensus what the linear maps add, the
    linear latent points start the table, then all is trained on the images. The paper recipe is the publication's own,
    for comparison: a 3D convolutional encoder from a random start, the structural disentanglement prior, the model
    chosen by a tenth of the particles.
    """

    network: Annotated[ConvConfig, tyro.conf.arg(name="")] = field(default_factory=ConvConfig)
    """The cube, the networks, and what maps cost."""


DEFAULT: dict[str, Any] = {
    "channels": 16,
    "hidden": 512,
    "encoder": "table",
    "encoder_cube": 32,
    "encoder_channels": 16,
    "variation": 0.2,
    "tv": 1.0,
    "l1": 0.3,
    "optimiser": "muon",
    "latent_rate": 0.3,
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
    "channels": 16,
    "hidden": 512,
    "encoder": "conv",
    "encoder_cube": 32,
    "encoder_channels": 16,
    "variation": 0.2,
    "tv": 1.0,
    "l1": 0.3,
    "prior": "disentangle",
    "held_out": 0.1,
    "final_model": "best",
    "optimiser": "adam",
    "latent_rate": 0.0,
    "final_latents": "table",
    "epochs": 20,
    "batch_size": 72,
    "learning_rate": 1e-4,
    "rate_schedule": "decay",
    "beta": 0.02,
    "beta_schedule": "cyclic",
    "noise": "white",
    "band_share": 0.0,
    "patience": 0,
    "warm_steps": 0,
}
RECIPES = {"default": DEFAULT, "paper": PAPER}


def resolved(config: ConvVolumeConfig) -> ConvVolumeConfig:
    """The config with everything filled in that was left to the recipe."""
    found: ConvVolumeConfig = resolved_by(config, dict(RECIPES[config.recipe]))
    return found
