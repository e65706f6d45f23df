"""Options of `cryomorph train conv-volume`, and the settings of its recipes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, Never, TypeAlias

import tyro

from cryomorph.config.choices import UNSET, Open
from cryomorph.config.methods import MethodEntry
from cryomorph.config.training import MethodConfig, by_recipe


@dataclass(frozen=True)
class ConvConfig(Generic[Open]):
    """The voxel grid, the networks and the regularisation. Options without a default are set by the recipe."""

    cube: int | Open = UNSET
    """Voxels along the side of the cube that represents the box (default: the box, at most 256); fewer are faster and
    coarser. Must be 2, 3, 5 or 7 times a power of two: other numbers are rounded up."""
    channels: int | Open = UNSET
    """Channels of the layer before the voxels; each coarser layer has twice as many, up to 2048 for a side of 256 as in
    the paper."""
    hidden: int | Open = UNSET
    """Width of the fully connected layer after the latent point."""
    encoder: Literal["table", "conv"] | Open = UNSET
    """Source of the latent points: a table with a row for each particle, or a convolutional network that sees the
    image, rotated back into the frame of the volume."""
    encoder_cube: Literal[16, 32, 64, 128] | Open = UNSET
    """Voxels along the side of the cube that the encoder network sees (the paper: 64)."""
    encoder_channels: int | Open = UNSET
    """Channels of the encoder network's first layer; each later one has twice as many (the paper: 16)."""
    variation: float | Open = UNSET
    """Amount of random variation, 0 to 1, in the contrast and brightness of the images that the encoder network sees
    during training."""
    tv: float | Open = UNSET
    """Weight of the total variation of the maps, the mean norm of their gradient, in nats per image (the paper: 1)."""
    l1: float | Open = UNSET
    """Weight of the mean absolute value of the maps, in nats per image (the paper: 0.3)."""


@dataclass(frozen=True)
class ConvVolumeConfig(MethodConfig[Open]):
    """Train a convolutional volume (OPUS-DSD): a network produces voxels, kept smooth and sparse.

    The default recipe starts from the linear method: the network adds to the consensus what the linear maps add, the
    table starts from the linear latent points, then all is trained on the images. The paper recipe is the publication's
    own, for comparison: a randomly initialised 3D convolutional encoder, the structural disentanglement prior, and the
    model chosen by its loss on a tenth of the particles.
    """

    network: Annotated[ConvConfig[Open], tyro.conf.arg(name="")] = field(default_factory=ConvConfig)
    """The voxel grid, the networks and the regularisation."""


ResolvedConvVolume: TypeAlias = ConvVolumeConfig[Never]

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
    "radius_share": 0.3,
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
    "radius_share": 0.0,
    "patience": 0,
    "warm_steps": 0,
}
RECIPES = {"default": DEFAULT, "paper": PAPER}


def conv_volume_by_recipe(config: ConvVolumeConfig[None]) -> ConvVolumeConfig[None]:
    """The config with its recipe's settings wherever the user left the choice open."""
    chosen: ConvVolumeConfig[None] = by_recipe(config, RECIPES[config.recipe])
    return chosen


METHOD = MethodEntry(
    "conv-volume",
    ConvVolumeConfig,
    method="cryomorph.methods.conv_volume:CONV_VOLUME",
    representation="cryomorph.representations.conv_volume:ConvVolume",
    encoders={"conv": "cryomorph.encoders.conv:ConvEncoder"},
)
