"""A Gaussian mixture's model as its config describes it: the same in every process."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.config.gaussians import GaussiansConfig
from cryomorph.encoders.base import Encoder
from cryomorph.encoders.gradient import GradientEncoder
from cryomorph.encoders.poses import PoseTable
from cryomorph.encoders.table import TableEncoder
from cryomorph.io.numbers import read_numbers
from cryomorph.models.heterogeneous import Heterogeneous, Objective
from cryomorph.objectives.frc import RingCorrelation, equal_rings, noise_rings
from cryomorph.objectives.likelihood import negative_log_likelihood
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.gaussian_slices import Mixture
from cryomorph.physics.symmetry import point_group
from cryomorph.representations.gaussian_motion import GaussianShape, compact_unit
from cryomorph.representations.gaussians import Gaussians
from cryomorph.training.build import mlp_encoder, noise_whitening
from cryomorph.training.distillation import Lesson, average_transfer
from cryomorph.training.session import Session, required
from cryomorph.volumes.grid import shell_amplitude
from cryomorph.volumes.masks import mask_at, read_mask

LISTS = (".txt", ".npy")
HALF = 0.5  # of a mask: what it holds
CALIBRATION = 256  # images that say how large gradients are


def build(session: Session) -> Heterogeneous:
    """The mixture of a session: its neutral Gaussians, what may change, its encoder and its objective."""
    config, store, found = session.config, session.store, required(session.consensus)
    if not isinstance(config, GaussiansConfig):
        raise TypeError(f"a Gaussian mixture needs its own config, got {type(config).__name__}")
    network, start = config.network, required(session.neutral)
    count = start.position.shape[1]
    lesson = session.lesson or Lesson.nothing(len(store), config.zdim)
    torch.manual_seed(config.seed)
    shape = GaussianShape(
        store.box,
        config.zdim,
        count,
        changes=tuple(network.change or ()),
        parts=min(network.parts or 0, count),
        width=network.width or 128,
        layers=network.layers or 3,
        noisy=bool(network.noisy),
        spread_penalty=network.spread_penalty or 0.0,
        decay=network.decay or 0.0,
    )
    free = freedom(config, start, store.box)
    model = Gaussians(shape, start, latent_scale=lesson.prior_std, origin=session.origin, free=free)
    whitening = noise_whitening(store, found, config.training.noise or "radial")
    weight = ring_weight(session, config, whitening)
    encoder: Encoder | None = None
    if config.zdim and network.encoder == "table":
        encoder = TableEncoder(lesson.point, lesson.spread)
    elif config.zdim and network.encoder == "mlp":
        encoder = mlp_encoder(store, config.zdim, network)
    elif config.zdim:
        encoder = gradient_encoder(session, config, weight)
    objective: Objective = negative_log_likelihood
    if network.objective == "frc":
        objective = RingCorrelation(weight, store.disk.shell)
    table = PoseTable(len(store)) if config.refines_against_model else None
    return Heterogeneous(
        model,
        encoder,
        prior_std=lesson.prior_std,
        whitening=whitening,
        poses=table,
        objective=objective,
        pose_spread_deg=config.training.pose_spread,
    )


def gradient_encoder(session: Session, config: GaussiansConfig, weight: Float32[Tensor, " rings"]) -> GradientEncoder:
    """The encoder that sees gradients at the neutral model, in units of what the first images have."""
    network, store = config.network, session.store
    encoder = GradientEncoder(
        required(session.neutral),
        ring_weight=weight,
        zdim=config.zdim,
        width=network.encoder_width or 512,
        layers=network.encoder_layers or 4,
        spread=network.encoder_spread or 0.0,
        noisy=bool(network.noisy),
    )
    whitening = noise_whitening(store, required(session.consensus), config.training.noise or "radial")
    encoder.calibrate(store.batch(torch.arange(min(CALIBRATION, len(store)))).whitened(whitening))
    return encoder


def ring_weight(
    session: Session, config: GaussiansConfig, whitening: Float32[Tensor, " size"]
) -> Float32[Tensor, " rings"]:
    """What each ring counts in a correlation."""
    store, network = session.store, config.network
    bounds = ring_bounds(config, store)
    if network.rings == "equal":
        return equal_rings(store.disk, **bounds)
    transfer = average_transfer(store, whitening, seed=config.seed).square()
    count = torch.bincount(store.disk.shell)
    gain = torch.zeros(len(count)).index_add(0, store.disk.shell, transfer) / count.clamp(min=1)
    power = shell_amplitude(required(session.consensus).map)[: len(gain)].square()
    return noise_rings(store.disk, gain * power, **bounds)


def ring_bounds(config: GaussiansConfig, store: ParticleStore) -> dict[str, float]:
    """The first and the last ring that count.

    Raises:
        InputError: no ring lies between.
    """
    extent, finest, coarsest = store.box * store.pixel_A, config.network.resolution, config.network.min_resolution
    bounds = {
        "first": extent / coarsest if coarsest else 1.0,
        "last": extent / finest if finest else store.box / 2,
    }
    if not equal_rings(store.disk, **bounds).any():
        raise InputError(f"--min-resolution {coarsest} and --resolution {finest} leave no ring to compare")
    return bounds


def freedom(config: GaussiansConfig, neutral: Mixture, box: int) -> Float32[Tensor, " n"] | None:
    """How much of a change each Gaussian follows; None for all of it.

    A mask's value where it lies, or 1 for those that a list names. Of a symmetric molecule for which neither is given,
    1 for those of one unit.

    Raises:
        InputError: a mask of another box, or numbers of Gaussians that there are not.
    """
    path, position = config.network.free, neutral.position[0]
    if path is None:
        group = point_group(config.symmetry).float()
        return compact_unit(position, neutral.amplitude[0], group) if len(group) > 1 else None
    if path.suffix in LISTS:
        numbers = read_numbers(path, len(position), what="Gaussian", of="the mixture")
        free = torch.zeros(len(position))
        free[numbers] = 1
        return free
    value = mask_at(read_mask(path, box), position).float()
    if not bool((value > HALF).any()):
        raise InputError(f"--free {path} holds no Gaussian: nothing could change; give a mask around what may move")
    return value
