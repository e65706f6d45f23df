"""The convolutional volume (OPUS-DSD; docs/methods.md, "Convolutional volume")."""

from __future__ import annotations

import torch

from cryomorph.config.conv_volume import ConvVolumeConfig, ResolvedConvVolume, conv_volume_by_recipe
from cryomorph.encoders.base import Encoder
from cryomorph.encoders.conv import ConvEncoder
from cryomorph.encoders.poses import PoseTable
from cryomorph.encoders.table import TableEncoder
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.objectives.smoothness import Smoothness
from cryomorph.particles.store import ParticleStore
from cryomorph.representations.conv_network import ConvShape, cube_side
from cryomorph.representations.conv_volume import ConvVolume
from cryomorph.training.check_options import check_training
from cryomorph.training.consensus import noise_whitening
from cryomorph.training.resolve import resolve_training
from cryomorph.training.session import Method, Session
from cryomorph.training.stages.consensus import consensus, image_noise
from cryomorph.training.stages.encode import encode
from cryomorph.training.stages.joint import joint
from cryomorph.training.stages.linear import linear
from cryomorph.training.stages.teach_encoder import teach_encoder
from cryomorph.training.stages.warm_start import random_start, warm_start
from cryomorph.volumes.grid import rebox

MOST_VOXELS = 512  # along the side of the cube
USUAL_VOXELS = 256  # at most, unless the user asks for more


def build(session: Session[ResolvedConvVolume]) -> Heterogeneous:
    """The convolutional volume of a session: added to the consensus after a linear stage, to nothing without one."""
    config, store = session.config, session.store
    network, start = config.network, session.initial_targets
    torch.manual_seed(config.seed)
    side = cube_side(network.cube)
    shape = ConvShape(store.box, config.zdim, side, network.channels, network.hidden)
    average = rebox(session.consensus.map, side)
    volume = ConvVolume(
        shape,
        None if session.targets is None else average,
        unit=float(average.square().mean().sqrt()),
        latent_scale=start.prior_std,
    )
    encoder: Encoder | None = None
    if config.zdim and network.encoder == "table":
        encoder = TableEncoder(start.point, start.spread)
    elif config.zdim:
        encoder = ConvEncoder(
            config.zdim, side=network.encoder_cube, channels=network.encoder_channels, variation=network.variation
        )
    return Heterogeneous(
        volume,
        encoder,
        prior_std=start.prior_std,
        whitening=noise_whitening(store, session.consensus, config.training.noise),
        poses=PoseTable(len(store)) if config.training.refine_poses else None,
        smoothness=Smoothness(network.tv, network.l1, store.box) if network.tv or network.l1 else None,
        pose_spread_deg=config.training.pose_spread,
    )


def check_options(config: ConvVolumeConfig[None]) -> None:
    """Refuse options that are out of range."""
    network = config.network
    check_training(
        config,
        table=network.encoder == "table",
        least={
            "cube": (network.cube, 8),
            "channels": (network.channels, 1),
            "hidden": (network.hidden, 1),
            "encoder-channels": (network.encoder_channels, 1),
            "variation": (network.variation, 0),
            "tv": (network.tv, 0),
            "l1": (network.l1, 0),
        },
        most={"cube": (network.cube, MOST_VOXELS), "variation": (network.variation, 1)},
    )


def resolve(config: ConvVolumeConfig[None], store: ParticleStore, device: torch.device) -> ResolvedConvVolume:
    """The options with no choice left open."""
    complete: ResolvedConvVolume = resolve_training(config, store, device, cube=min(store.box, USUAL_VOXELS))
    return complete


CONV_VOLUME = Method[ResolvedConvVolume](
    "conv-volume",
    {
        "default": (consensus, image_noise, linear, warm_start, teach_encoder, joint, encode),
        "paper": (consensus, random_start, joint, encode),
    },
    build,
    by_recipe=conv_volume_by_recipe,
    resolve=resolve,
    check=check_options,
)
