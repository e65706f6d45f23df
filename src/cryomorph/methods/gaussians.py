"""The Gaussian mixture from a particle file to a run (METHODS 5)."""

from __future__ import annotations

import torch

from cryomorph.config.errors import InputError
from cryomorph.config.gaussians import GaussiansConfig, resolved
from cryomorph.io.structure import write_points
from cryomorph.methods.gaussian_model import LISTS, build, ring_bounds
from cryomorph.methods.neutral_model import MOST, neutral
from cryomorph.models.measure import IMAGES, scale_of_maps, spread_over
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.symmetry import point_group
from cryomorph.representations.gaussian_motion import CHANGES
from cryomorph.representations.gaussians import Gaussians
from cryomorph.runs.folder import RunFolder
from cryomorph.training.run_method import check_numbers, train_method
from cryomorph.training.session import Method, Session, TrainedConfig, required
from cryomorph.training.stages.recipes import consensus, encode, joint, linear, poses, warm
from cryomorph.training.stages.teach_encoder import teach_encoder
from cryomorph.training.start import check_mask, check_paths, keep_clear
from cryomorph.volumes.masks import read_mask

POINTS = "gaussians.cif"
FEWEST = 3
SCALED = 16  # images at once whose scale is measured


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
    """Refuse resolutions that the images do not hold, and a mask of another box, before any stage."""
    if not isinstance(config, GaussiansConfig):
        return
    asked, free = config.network.resolution, config.network.free
    if asked is not None and asked < 1.98 * store.pixel_A:
        raise InputError(f"--resolution {asked}: the images hold {2 * store.pixel_A:.2f} A at best")
    if free is not None and free.suffix not in LISTS:
        read_mask(free, store.box)
    ring_bounds(config, store)


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
    disk, parallel = session.store.disk, session.parallel
    loader = ParticleLoader(session.store, SCALED, subset=parallel.shard(spread_over(len(session.store), IMAGES)))
    batches = (model.placed(given.to(parallel.device), disk) for given in loader)
    seen = ((batch, model.posterior(batch).mean) for batch in batches)
    scale = scale_of_maps(model.representation, seen, disk=disk, total=parallel.all_reduce_sum)
    if scale > 0:
        model.representation.amplitude_unit *= scale
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
    if config.training.pose_spread and network.objective == "frc":
        raise InputError("--pose-spread weighs orientations by likelihood, which --objective frc is not: give one")
    if network.free is not None:
        if not network.free.is_file():
            raise InputError(f"--free {network.free}: no such file; expected a mask or a list of Gaussians")
        keep_clear("free", network.free, config.output, overwrite=config.overwrite)
    check_paths(config)
    check_mask(config.mask, config.output, overwrite=config.overwrite)
