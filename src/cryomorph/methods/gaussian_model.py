"""The model of a Gaussian mixture as its options describe it, the same in every process."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.config.gaussians import ResolvedGaussians
from cryomorph.encoders.base import Encoder
from cryomorph.encoders.gradient import GradientEncoder
from cryomorph.encoders.mlp import MlpEncoder
from cryomorph.encoders.poses import PoseTable
from cryomorph.encoders.table import TableEncoder
from cryomorph.io.numbers import read_numbers
from cryomorph.methods.neutral_model import read_neutral
from cryomorph.models.heterogeneous import Heterogeneous, Objective
from cryomorph.objectives.frc import RingCorrelation, equal_rings, noise_rings
from cryomorph.objectives.likelihood import negative_log_likelihood
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.gaussian_slices import Mixture
from cryomorph.physics.symmetry import point_group
from cryomorph.representations.gaussian_motion import GaussianShape, compact_unit
from cryomorph.representations.gaussians import Gaussians
from cryomorph.training.consensus import noise_whitening
from cryomorph.training.distillation import rms_transfer
from cryomorph.training.session import Session
from cryomorph.volumes.grid import shell_amplitude
from cryomorph.volumes.masks import mask_at, read_mask

LISTS = (".txt", ".npy")
INSIDE = 0.5  # value of a mask where it contains a Gaussian
CALIBRATION = 256  # images that calibrate the size of gradients


def build(session: Session[ResolvedGaussians]) -> Heterogeneous:
    """The mixture of a session: its neutral Gaussians, what may change, its encoder and its objective."""
    config, store, start = session.config, session.store, session.initial_targets
    network, neutral = config.network, read_neutral(session.run)
    count = neutral.mixture.position.shape[1]
    torch.manual_seed(config.seed)
    shape = GaussianShape(
        store.box,
        config.zdim,
        count,
        changes=network.change,
        parts=min(network.parts, count),
        width=network.width,
        layers=network.layers,
        noisy=network.noisy,
        spread_penalty=network.spread_penalty,
        decay=network.decay,
    )
    origin = None if neutral.particle is None or session.targets is None else session.targets.point[neutral.particle]
    free = freedom(config, neutral.mixture, store.box, pixel_A=store.pixel_A)
    model = Gaussians(shape, neutral.mixture, latent_scale=start.prior_std, origin=origin, free=free)
    whitening = noise_whitening(store, session.consensus, config.training.noise)
    weight = ring_weight(session, whitening)
    encoder: Encoder | None = None
    if config.zdim and network.encoder == "table":
        encoder = TableEncoder(start.point, start.spread)
    elif config.zdim and network.encoder == "mlp":
        count = store.disk.count(network.encoder_radius)
        encoder = MlpEncoder(count, config.zdim, width=network.encoder_width, layers=network.encoder_layers)
    elif config.zdim:
        encoder = gradient_encoder(session, neutral.mixture, weight, whitening=whitening)
    objective: Objective = negative_log_likelihood
    if network.objective == "frc":
        objective = RingCorrelation(weight, store.disk.shell)
    return Heterogeneous(
        model,
        encoder,
        prior_std=start.prior_std,
        whitening=whitening,
        poses=PoseTable(len(store)) if config.training.refine_poses else None,
        objective=objective,
        pose_spread_deg=config.training.pose_spread,
    )


def gradient_encoder(
    session: Session[ResolvedGaussians],
    neutral: Mixture,
    weight: Float32[Tensor, " rings"],
    *,
    whitening: Float32[Tensor, " size"],
) -> GradientEncoder:
    """The encoder that sees gradients at the neutral model, in units of those of the first images."""
    network, store = session.config.network, session.store
    encoder = GradientEncoder(
        neutral,
        ring_weight=weight,
        zdim=session.config.zdim,
        width=network.encoder_width,
        layers=network.encoder_layers,
        spread=network.encoder_spread,
        noisy=network.noisy,
    )
    encoder.calibrate(store.batch(torch.arange(min(CALIBRATION, len(store)))).whitened(whitening))
    return encoder


def ring_weight(session: Session[ResolvedGaussians], whitening: Float32[Tensor, " size"]) -> Float32[Tensor, " rings"]:
    """Weight of each ring in a correlation."""
    store, network = session.store, session.config.network
    bounds = ring_bounds(store, finest_A=network.resolution, coarsest_A=network.min_resolution)
    if network.rings == "equal":
        return equal_rings(store.disk, **bounds)
    transfer = rms_transfer(store, whitening, seed=session.config.seed).square()
    count = torch.bincount(store.disk.shell)
    gain = torch.zeros(len(count)).index_add(0, store.disk.shell, transfer) / count.clamp(min=1)
    power = shell_amplitude(session.consensus.map)[: len(gain)].square()
    return noise_rings(store.disk, gain * power, **bounds)


def ring_bounds(store: ParticleStore, *, finest_A: float | None, coarsest_A: float | None) -> dict[str, float]:
    """The first and the last ring of a correlation; None is no bound.

    Raises:
        InputError: no ring lies between.
    """
    extent_A = store.box * store.pixel_A
    bounds = {
        "first": extent_A / coarsest_A if coarsest_A else 1.0,
        "last": extent_A / finest_A if finest_A else store.box / 2,
    }
    if not equal_rings(store.disk, **bounds).any():
        raise InputError(f"--min-resolution {coarsest_A} and --resolution {finest_A} leave no ring to compare")
    return bounds


def freedom(config: ResolvedGaussians, neutral: Mixture, box: int, *, pixel_A: float) -> Float32[Tensor, " n"] | None:
    """How far each Gaussian follows a change, 0 to 1; None for all of it.

    The value of the mask at the Gaussian, or 1 for those in the list. For a symmetric molecule without either, 1 for
    the Gaussians of one unit.

    Raises:
        InputError: a mask that does not fit the box, or numbers of Gaussians that do not exist.
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
    value = mask_at(read_mask(path, box, pixel_A, quiet=True), position).float()
    if not bool((value > INSIDE).any()):
        raise InputError(f"--free {path} contains no Gaussian: nothing could change; give a mask around what may move")
    return value
