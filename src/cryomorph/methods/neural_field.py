"""The neural field in Fourier space (cryoDRGN; docs/methods.md, "Neural field")."""

from __future__ import annotations

import torch

from cryomorph.config.neural_field import NeuralFieldConfig, ResolvedNeuralField, neural_field_by_recipe
from cryomorph.encoders.base import Encoder
from cryomorph.encoders.mlp import MlpEncoder
from cryomorph.encoders.poses import PoseTable
from cryomorph.encoders.table import TableEncoder
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.particles.store import ParticleStore
from cryomorph.representations.encodings import frequency_matrix
from cryomorph.representations.field_network import FieldShape
from cryomorph.representations.neural_field import NeuralField
from cryomorph.training.check_options import check_training
from cryomorph.training.consensus import Consensus, noise_whitening
from cryomorph.training.distillation import DistillationTargets
from cryomorph.training.resolve import resolve_training
from cryomorph.training.session import Method, Session
from cryomorph.training.stages.consensus import consensus, image_noise
from cryomorph.training.stages.encode import encode
from cryomorph.training.stages.joint import joint
from cryomorph.training.stages.linear import linear
from cryomorph.training.stages.warm_start import random_start, warm_start
from cryomorph.volumes.grid import shell_amplitude


def build(session: Session[ResolvedNeuralField]) -> Heterogeneous:
    """The neural field of a session."""
    return build_model(session.config, session.store, session.consensus, targets=session.targets)


def build_model(
    config: ResolvedNeuralField, store: ParticleStore, consensus: Consensus, *, targets: DistillationTargets | None
) -> Heterogeneous:
    """The model that the options describe, the same in every process.

    Args:
        consensus: its noise, and the amplitude of the maps.
        targets: latent points of the particles before training; None for a random start, with a standard normal prior.
    """
    network, residual = config.network, config.network.network == "residual"
    start = targets or DistillationTargets.standard_normal(len(store), config.zdim)
    torch.manual_seed(config.seed)
    frequencies = frequency_matrix(
        network.encoding,
        store.box,
        sigma=network.feature_sigma,
        count=round(network.feature_share * store.box),
        seed=config.seed,
    )
    shape = FieldShape(store.box, config.zdim, network.width, network.layers, residual=residual)
    # after a random start the output is in units of the noise, as in the papers
    amplitude = None if targets is None else shell_amplitude(consensus.map)
    field = NeuralField(shape, frequencies, amplitude, start.prior_std)
    encoder: Encoder | None = None
    if config.zdim and network.encoder == "table":
        encoder = TableEncoder(start.point, start.spread)
    elif config.zdim:
        encoder = MlpEncoder(
            store.disk.count(network.encoder_radius),
            config.zdim,
            width=network.encoder_width,
            layers=network.encoder_layers,
            residual=residual,
        )
    return Heterogeneous(
        field,
        encoder,
        prior_std=start.prior_std,
        whitening=noise_whitening(store, consensus, config.training.noise),
        poses=PoseTable(len(store)) if config.training.refine_poses else None,
        pose_spread_deg=config.training.pose_spread,
    )


def check_options(config: NeuralFieldConfig[None]) -> None:
    """Refuse options that are out of range."""
    network = config.network
    check_training(
        config,
        table=network.encoder == "table",
        least={
            "width": (network.width, 1),
            "layers": (network.layers, 1),
            "feature-share": (network.feature_share, 0.1),
            "feature-sigma": (network.feature_sigma, 1e-6),
            "encoder-width": (network.encoder_width, 1),
            "encoder-layers": (network.encoder_layers, 1),
            "encoder-radius": (network.encoder_radius, 2),
        },
    )


def resolve(config: NeuralFieldConfig[None], store: ParticleStore, device: torch.device) -> ResolvedNeuralField:
    """The options with no choice left open."""
    complete: ResolvedNeuralField = resolve_training(config, store, device, encoder_radius=store.box / 2)
    return complete


NEURAL_FIELD = Method[ResolvedNeuralField](
    "neural-field",
    {
        "default": (consensus, image_noise, linear, warm_start, joint, encode),
        "paper": (consensus, random_start, joint, encode),
    },
    build,
    by_recipe=neural_field_by_recipe,
    resolve=resolve,
    check=check_options,
)
