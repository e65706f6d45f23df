"""The Gaussian mixture (e2gmm; docs/methods.md, "Gaussian mixture")."""

from __future__ import annotations

import torch

from cryomorph.config.errors import InputError
from cryomorph.config.gaussians import GaussiansConfig, ResolvedGaussians, gaussians_by_recipe
from cryomorph.io.structure import write_points
from cryomorph.methods.gaussian_model import LISTS, build, ring_bounds
from cryomorph.methods.neutral_model import MOST, neutral
from cryomorph.models.measure import IMAGES, scale_of_maps, spread_over
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.symmetry import point_group
from cryomorph.representations.gaussian_motion import CHANGES
from cryomorph.representations.gaussians import Gaussians
from cryomorph.training.check_options import check_training
from cryomorph.training.resolve import resolve_training
from cryomorph.training.session import Method, Session
from cryomorph.training.stages.consensus import consensus, image_noise
from cryomorph.training.stages.encode import encode
from cryomorph.training.stages.joint import joint
from cryomorph.training.stages.linear import linear
from cryomorph.training.stages.teach_encoder import teach_encoder
from cryomorph.training.stages.warm_start import random_start, warm_start
from cryomorph.training.start import keep_clear
from cryomorph.volumes.masks import read_mask

POINTS = "gaussians.cif"
FEWEST = 3
BATCH = 16  # images whose scale is measured at once


def check_options(config: GaussiansConfig[None]) -> None:
    """Refuse options that are out of range, or that do not go together."""
    network = config.network
    check_training(
        config,
        table=network.encoder == "table",
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
            "encoder-radius": (network.encoder_radius, 2),
            "encoder-spread": (network.encoder_spread, 0),
            "neutral-steps": (config.neutral_steps, 1),
        },
        most={"gaussians": (network.gaussians, MOST)},
    )
    if config.zdim and not network.change:
        raise InputError("--change names nothing that may change: expected positions, amplitudes or widths")
    if len(point_group(config.symmetry)) > 1 and network.encoder == "mlp":
        raise InputError(
            "--encoder mlp sees only images, which are the same for all symmetry copies: give table or gradient"
        )
    if config.recipe == "paper" and network.neutral == "state":
        raise InputError("--neutral state needs the linear method, which --recipe paper omits: give consensus")
    if config.training.pose_spread and network.objective == "frc":
        raise InputError("--pose-spread weights orientations by likelihood, which --objective frc is not: omit one")
    if network.free is not None:
        if not network.free.is_file():
            raise InputError(f"--free {network.free}: no such file; expected a mask or a list of Gaussians")
        keep_clear("free", network.free, config.output, overwrite=config.overwrite)


def accept(config: GaussiansConfig[None], store: ParticleStore) -> None:
    """Refuse resolutions that the images do not contain, and a mask that does not fit the box."""
    resolution, free = config.network.resolution, config.network.free
    if resolution is not None and resolution < 1.98 * store.pixel_A:
        raise InputError(f"--resolution {resolution}: the images contain {2 * store.pixel_A:.2f} A at best")
    if free is not None and free.suffix not in LISTS:
        read_mask(free, store.box, store.pixel_A)
    ring_bounds(store, finest_A=resolution, coarsest_A=config.network.min_resolution)


def resolve(config: GaussiansConfig[None], store: ParticleStore, device: torch.device) -> ResolvedGaussians:
    """The options with no choice left open."""
    complete: ResolvedGaussians = resolve_training(config, store, device, encoder_radius=store.box / 2)
    return complete


def mixture_of(session: Session[ResolvedGaussians]) -> Gaussians:
    """The representation of a session's model."""
    model = session.model.representation
    if not isinstance(model, Gaussians):
        raise TypeError(f"expected Gaussians, got {type(model).__name__}")
    return model


def open_epoch(session: Session[ResolvedGaussians], epoch: int, epochs: int) -> None:
    """Allow one more kind of change in each part of the paper's training, in the order of --change."""
    model = mixture_of(session)
    if model.network is None or session.config.recipe != "paper":
        return
    changes = model.shape.changes
    now = changes[: epoch * len(changes) // max(epochs, 1) + 1]
    model.network.gate.copy_(torch.tensor([float(kind in now) for kind in CHANGES]))


@torch.no_grad()
def close_epoch(session: Session[ResolvedGaussians]) -> None:
    """Give the maps the scale of the images, which the ring correlation ignores; the same in all processes."""
    if session.config.network.objective != "frc":
        return
    model, disk, parallel = session.model, session.store.disk, session.parallel
    model.eval()
    loader = ParticleLoader(session.store, BATCH, subset=parallel.shard(spread_over(len(session.store), IMAGES)))
    batches = (model.prepare_batch(given.to(parallel.device), disk) for given in loader)
    seen = ((batch, model.posterior(batch).mean) for batch in batches)
    scale = scale_of_maps(model.representation, seen, disk=disk, total=parallel.all_reduce_sum)
    if scale > 0:
        mixture_of(session).amplitude_unit *= scale
    model.train()


def write_extras(session: Session[ResolvedGaussians]) -> None:
    """Write the neutral Gaussians as pseudo-atoms, numbered from 0 as lists and figures refer to them."""
    position, width, amplitude = (part.detach().double().cpu().numpy() for part in mixture_of(session).neutral)
    pixel_A, box = session.store.pixel_A, session.store.box
    write_points(
        session.run.path / POINTS,
        (position + box // 2) * pixel_A,
        occupancy=amplitude / amplitude.max(),
        width_A=width * pixel_A,
    )


GAUSSIANS = Method[ResolvedGaussians](
    "gaussians",
    {
        "default": (consensus, image_noise, linear, neutral, warm_start, teach_encoder, joint, encode),
        "paper": (consensus, neutral, random_start, joint, encode),
    },
    build,
    by_recipe=gaussians_by_recipe,
    resolve=resolve,
    check=check_options,
    accept=accept,
    open_epoch=open_epoch,
    close_epoch=close_epoch,
    write_extras=write_extras,
)
