"""The Gaussian mixture from a particle file to a run (METHODS 5)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32
from scipy.ndimage import map_coordinates
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.config.gaussians import GaussiansConfig, resolved
from cryomorph.encoders.base import Encoder
from cryomorph.encoders.gradient import GradientEncoder
from cryomorph.encoders.mlp import MlpEncoder
from cryomorph.encoders.poses import PoseTable
from cryomorph.encoders.table import TableEncoder
from cryomorph.inference.checks import IMAGES, spread_over
from cryomorph.io.numbers import read_numbers
from cryomorph.io.structure import write_points
from cryomorph.models.heterogeneous import Heterogeneous, Objective
from cryomorph.objectives.frc import RingCorrelation, equal_rings, noise_rings
from cryomorph.objectives.likelihood import best_scale, negative_log_likelihood
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.symmetry import point_group
from cryomorph.representations.gaussian_motion import CHANGES, GaussianShape, compact_unit
from cryomorph.representations.gaussians import Gaussians
from cryomorph.runs.folder import RunFolder
from cryomorph.training.build import noise_whitening
from cryomorph.training.method import check_numbers, train_method
from cryomorph.training.neutral import MOST, neutral
from cryomorph.training.recipes import consensus, encode, joint, linear, poses, warm
from cryomorph.training.session import Method, Session, TrainedConfig, required
from cryomorph.training.start import check_mask, check_paths, keep_clear
from cryomorph.training.teach_encoder import teach_encoder
from cryomorph.training.warm_start import Lesson, average_transfer
from cryomorph.volumes.grid import shell_amplitude
from cryomorph.volumes.masks import read_mask

POINTS = "gaussians.cif"
FEWEST = 3
LISTS = (".txt", ".npy")
SCALED = 16  # images at once whose scale is measured
CALIBRATION = 256  # images that say how large gradients are


def train_gaussians(config: GaussiansConfig) -> RunFolder:
    """Train a Gaussian mixture; returns the finished run.

    Started by `torchrun`, all processes train one model together.

    Raises:
        InputError: an option out of range, particles that cannot be used, or a run folder that is in use.
    """
    config = resolved(config)
    check_options(config)
    return train_method(config, GAUSSIANS)


def accept(config: TrainedConfig, store: ParticleStore) -> None:
    """Refuse a resolution that the images do not hold, and a mask of another box, before any stage."""
    if not isinstance(config, GaussiansConfig):
        return
    asked, free = config.network.resolution, config.network.free
    if asked is not None and asked < 1.98 * store.pixel_A:
        raise InputError(f"--resolution {asked}: the images hold {2 * store.pixel_A:.2f} A at best")
    if free is not None and free.suffix not in LISTS:
        read_mask(free, store.box)


def build(session: Session) -> Heterogeneous:
    """The mixture of a session: its neutral Gaussians, what may change, its encoder and its objective."""
    config, store, found = session.config, session.store, required(session.consensus)
    if not isinstance(config, GaussiansConfig):
        raise TypeError(f"a Gaussian mixture needs its own config, got {type(config).__name__}")
    network, start = config.network, required(session.neutral)
    count = start.position.shape[1]
    nothing = torch.zeros(len(store), config.zdim)
    lesson = session.lesson or Lesson(nothing, nothing + 1, nothing, shared=True)
    prior_std = torch.ones(config.zdim) if session.lesson is None else lesson.prior_std
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
    model = Gaussians(shape, start, latent_scale=prior_std, origin=session.origin, free=free)
    whitening = noise_whitening(store, found, config.training.noise or "radial")
    weight = ring_weight(session, config, whitening)
    encoder: Encoder | None = None
    if config.zdim and network.encoder == "table":
        encoder = TableEncoder(lesson.point, lesson.spread)
    elif config.zdim and network.encoder == "mlp":
        encoder = MlpEncoder(
            store.disk.count(network.encoder_band or store.box / 2),
            config.zdim,
            width=network.encoder_width or 512,
            layers=network.encoder_layers or 4,
        )
    elif config.zdim:
        encoder = gradient_encoder(session, config, weight)
    objective: Objective = negative_log_likelihood
    if network.objective == "frc":
        objective = RingCorrelation(weight, store.disk.shell)
    table = PoseTable(len(store)) if config.refines_against_model else None
    return Heterogeneous(model, encoder, prior_std=prior_std, whitening=whitening, poses=table, objective=objective)


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
    extent = store.box * store.pixel_A
    bounds = {
        "first": extent / network.min_resolution if network.min_resolution else 1.0,
        "last": extent / network.resolution if network.resolution else store.box / 2,
    }
    equal = equal_rings(store.disk, **bounds)
    if not equal.any():
        raise InputError(
            f"--min-resolution {network.min_resolution} and --resolution {network.resolution} leave no ring to compare"
        )
    if network.rings == "equal":
        return equal
    transfer = average_transfer(store, whitening, seed=config.seed).square()
    count = torch.bincount(store.disk.shell)
    gain = torch.zeros(len(count)).index_add(0, store.disk.shell, transfer) / count.clamp(min=1)
    power = shell_amplitude(required(session.consensus).map)[: len(gain)].square()
    return noise_rings(store.disk, gain * power, **bounds)


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
    at = (position.flip(1) + box // 2).numpy().T
    value = np.clip(map_coordinates(read_mask(path, box).numpy(), at, order=1, mode="constant"), 0, 1)
    if not value.any():
        raise InputError(f"--free {path} holds no Gaussian: nothing could change")
    return torch.from_numpy(value).float()


def open_epoch(session: Session, epoch: int, epochs: int) -> None:
    """Hold back kinds of change in a paper's training: in each part of it one more is open, in the order asked for."""
    model = required(session.model).representation
    if not isinstance(model, Gaussians) or model.network is None or session.config.recipe != "paper":
        return
    asked = model.shape.changes
    now = asked[: epoch * len(asked) // max(epochs, 1) + 1]
    model.network.gate.copy_(torch.tensor([float(kind in now) for kind in CHANGES]))


@torch.no_grad()
def close_epoch(session: Session) -> None:
    """Give the maps the scale of the images, to which the ring correlation is blind; all processes the same."""
    model, config = required(session.model), session.config
    if not (isinstance(config, GaussiansConfig) and isinstance(model.representation, Gaussians)):
        return
    if config.network.objective != "frc":
        return
    model.eval()
    disk, sums = session.store.disk, torch.zeros(2, device=session.parallel.device)
    sample = session.parallel.share(spread_over(len(session.store), IMAGES))
    for given in ParticleLoader(session.store, SCALED, subset=sample):
        batch = model.placed(given.to(session.parallel.device), disk)
        slices = model.representation.slices(model.posterior(batch).mean, batch.rotation, disk)
        sums += torch.stack([part.sum() for part in best_scale(batch, slices)])
    overlap, power = session.parallel.total(sums).tolist()
    if overlap > 0 and power > 0:
        model.representation.amplitude_unit *= overlap / power
    model.train()


def leave(session: Session) -> None:
    """Write the neutral Gaussians as pseudo-atoms, counted from 0: what lists and pictures refer to."""
    model = required(session.model).representation
    if isinstance(model, Gaussians):
        place, width, amplitude = (part.detach().double().cpu().numpy() for part in model.neutral)
        pixel_A, box = session.store.pixel_A, session.store.box
        write_points(
            session.run.path / POINTS,
            (place + box // 2) * pixel_A,
            occupancy=amplitude / amplitude.max(),
            width_A=width * pixel_A,
        )


GAUSSIANS = Method(
    "gaussians",
    build,
    {
        "default": (poses, consensus, linear, neutral, warm, teach_encoder, joint, encode),
        "paper": (consensus, neutral, joint, encode),
    },
    accept=accept,
    open_epoch=open_epoch,
    close_epoch=close_epoch,
    leave=leave,
)


def check_options(config: GaussiansConfig) -> None:
    """Refuse what cannot be trained before anything is written."""
    network = config.network
    check_numbers(
        config,
        least={
            "gaussians": (network.gaussians, FEWEST),
            "resolution": (network.resolution, 0.1),
            "min-resolution": (network.min_resolution, 0.1),
            "parts": (network.parts, 0),
            "width": (network.width, 1),
            "layers": (network.layers, 1),
            "spread-penalty": (network.spread_penalty, 0),
            "decay": (network.decay, 0),
            "encoder-width": (network.encoder_width, 1),
            "encoder-layers": (network.encoder_layers, 1),
            "encoder-band": (network.encoder_band, 2),
            "encoder-spread": (network.encoder_spread, 0),
            "neutral-steps": (config.neutral_steps, 1),
        },
        most={"gaussians": (network.gaussians, MOST)},
    )
    if config.zdim and not network.change:
        raise InputError("--change names nothing that may change: expected positions, amplitudes or widths")
    if len(point_group(config.symmetry)) > 1 and network.encoder == "mlp":
        raise InputError("--encoder mlp sees images alone, which are the same for all copies: give table or gradient")
    if config.recipe == "paper" and network.encoder == "table":
        raise InputError("--encoder table starts from the linear method, which --recipe paper leaves out: give one")
    if config.recipe == "paper" and network.neutral == "state":
        raise InputError("--neutral state needs the linear method, which --recipe paper leaves out: give consensus")
    if network.free is not None:
        if not network.free.is_file():
            raise InputError(f"--free {network.free}: no such file; expected a mask or a list of Gaussians")
        keep_clear("free", network.free, config.output, overwrite=config.overwrite)
    check_paths(config)
    check_mask(config.mask, config.output, overwrite=config.overwrite)
