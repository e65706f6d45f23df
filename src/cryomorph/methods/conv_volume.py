"""The convolutional volume from a particle file to a run (METHODS 4)."""

from __future__ import annotations

import torch

from cryomorph.config.conv_volume import ConvVolumeConfig, resolved
from cryomorph.config.errors import InputError
from cryomorph.encoders.base import Encoder
from cryomorph.encoders.conv import ConvEncoder
from cryomorph.encoders.poses import PoseTable
from cryomorph.encoders.table import TableEncoder
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.objectives.smoothness import Smoothness
from cryomorph.representations.conv_network import ConvShape, cube_side
from cryomorph.representations.conv_volume import ConvVolume
from cryomorph.runs.folder import RunFolder
from cryomorph.training.build import noise_whitening
from cryomorph.training.distillation import Lesson
from cryomorph.training.run_method import check_numbers, train_method
from cryomorph.training.session import Method, Session, required
from cryomorph.training.stages.recipes import consensus, encode, joint, linear, poses, warm
from cryomorph.training.stages.teach_encoder import teach_encoder
from cryomorph.training.start import check_mask, check_paths
from cryomorph.volumes.grid import rebox

MOST_CUBE = 512
USUAL_CUBE = 256  # at most, where none was asked for


def train_conv_volume(config: ConvVolumeConfig) -> RunFolder:
    """Train a convolutional volume; returns the finished run.

    Started by `torchrun`, all processes train one model together.

    Raises:
        InputError: an option out of range, particles that cannot be used, or a run folder that is in use.
    """
    config = resolved(config)
    check_options(config)
    return train_method(config, CONV_VOLUME)


def build(session: Session) -> Heterogeneous:
    """The convolutional volume of a session: on the consensus where there is a linear model, on nothing without."""
    config, store, found = session.config, session.store, required(session.consensus)
    if not isinstance(config, ConvVolumeConfig):
        raise TypeError(f"a convolutional volume needs its own config, got {type(config).__name__}")
    network, lesson = config.network, session.lesson or Lesson.nothing(len(store), config.zdim)
    torch.manual_seed(config.seed)
    side = cube_side(network.cube or min(store.box, USUAL_CUBE))
    shape = ConvShape(store.box, config.zdim, side, network.channels or 16, network.hidden or 512)
    average = rebox(found.map, side)
    volume = ConvVolume(
        shape,
        None if session.lesson is None else average,
        unit=float(average.square().mean().sqrt()),
        latent_scale=lesson.prior_std,
    )
    encoder: Encoder | None = None
    if config.zdim and network.encoder == "table":
        encoder = TableEncoder(lesson.point, lesson.spread)
    elif config.zdim:
        encoder = ConvEncoder(
            config.zdim,
            side=network.encoder_cube or 32,
            channels=network.encoder_channels or 16,
            variation=network.variation or 0.0,
        )
    smoothness = None
    if network.tv or network.l1:
        smoothness = Smoothness(network.tv or 0.0, network.l1 or 0.0, store.box)
    return Heterogeneous(
        volume,
        encoder,
        prior_std=lesson.prior_std,
        whitening=noise_whitening(store, found, config.training.noise or "radial"),
        poses=PoseTable(len(store)) if config.refines_against_model else None,
        smoothness=smoothness,
        pose_spread_deg=config.training.pose_spread,
    )


CONV_VOLUME = Method(
    "conv-volume",
    build,
    {
        "default": (poses, consensus, linear, warm, teach_encoder, joint, encode),
        "paper": (consensus, joint, encode),
    },
)


def check_options(config: ConvVolumeConfig) -> None:
    """Refuse what cannot be trained before anything is written."""
    network = config.network
    if config.recipe == "paper" and network.encoder == "table":
        raise InputError("--encoder table starts from the linear method, which --recipe paper leaves out: give conv")
    check_numbers(
        config,
        least={
            "cube": (network.cube, 8),
            "channels": (network.channels, 1),
            "hidden": (network.hidden, 1),
            "encoder-channels": (network.encoder_channels, 1),
            "variation": (network.variation, 0),
            "tv": (network.tv, 0),
            "l1": (network.l1, 0),
        },
        most={"cube": (network.cube, MOST_CUBE), "variation": (network.variation, 1)},
    )
    check_paths(config)
    check_mask(config.mask, config.output, overwrite=config.overwrite)
