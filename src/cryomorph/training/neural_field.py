"""The neural field from a particle file to a run."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from time import perf_counter

import torch

from cryomorph.config.errors import InputError
from cryomorph.config.neural_field import NeuralFieldConfig, resolved
from cryomorph.models.machine import choose_device
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.folder import RunFolder
from cryomorph.training.device import choose_precision
from cryomorph.training.parallel import Parallel, parallel
from cryomorph.training.recipes import Session, run_recipe
from cryomorph.training.start import (
    check_mask,
    check_particles,
    check_paths,
    start_run,
    take_particles,
)

MOST_DIMENSIONS = 128


def train_neural_field(config: NeuralFieldConfig) -> RunFolder:
    """Train a neural field; returns the finished run.

    Started by `torchrun`, all processes train one model together.

    Raises:
        InputError: an option out of range, particles that cannot be used, or a run folder that is in use.
    """
    config = resolved(config)
    check_options(config)
    with parallel(choose_device(config.training.device)) as processes:
        return _train(config, processes)


def _train(config: NeuralFieldConfig, processes: Parallel) -> RunFolder:
    begin = perf_counter()
    with processes.first_alone() as alone:
        run = start_run(config, "neural-field") if alone else RunFolder(config.output, quiet=True)
        if run.is_complete:
            run.log(f"{run.path} is complete already: nothing to resume")
            return run
        accept = partial(check_particles, zdim=config.zdim, mask=config.mask)
        # not with poses that an interrupted run has refined: the stages come to them by themselves
        store = take_particles(run, config, accept) if alone else ParticleStore.open(run.store_path)
    plan = choose_precision(config.training, processes.device)
    run.log(
        f"training on {processes.world} {processes.device.type} process{'es' if processes.world > 1 else ''}, "
        f"{plan.precision}, {torch.get_num_threads()} threads"
    )
    run_recipe(Session(run, store, replace(config, training=plan), processes))
    following = f"next: cryomorph analyze {run.path}" if config.zdim else f"the map is {run.path / 'map.mrc'}"
    run.log(f"done in {perf_counter() - begin:.1f} s: {run.path}; {following}")
    return run


def check_options(config: NeuralFieldConfig) -> None:
    """Refuse what cannot be trained before anything is written."""
    plan, network = config.training, config.network
    least: dict[str, tuple[float | None, float]] = {
        "zdim": (config.zdim, 0),
        "width": (network.width, 1),
        "layers": (network.layers, 1),
        "feature-share": (network.feature_share, 0.1),
        "feature-sigma": (network.feature_sigma, 1e-6),
        "encoder-width": (network.encoder_width, 1),
        "encoder-layers": (network.encoder_layers, 1),
        "encoder-band": (network.encoder_band, 2),
        "epochs": (plan.epochs, 1),
        "batch-size": (plan.batch_size, 1),
        "learning-rate": (plan.learning_rate, 0),
        "latent-rate": (plan.latent_rate, 0),
        "beta": (plan.beta, 0),
        "first-band": (plan.first_band, 2),
        "band-share": (plan.band_share, 0),
        "held-out": (plan.held_out, 0),
        "patience": (plan.patience, 0),
        "pose-epoch": (plan.pose_epoch, 1),
        "checkpoint-minutes": (plan.checkpoint_minutes, 0),
        "linear-zdim": (config.linear_zdim, min(config.zdim, 1)),
        "linear-band": (config.linear_band, 6),
        "warm-steps": (config.warm_steps, 0),
    }
    for name, (value, bound) in least.items():
        if value is not None and not bound <= value < math.inf:
            raise InputError(f"--{name} {value}: expected {bound:g} or more")
    most = {
        "zdim": (config.zdim, MOST_DIMENSIONS),
        "band-share": (plan.band_share, 1),
        "held-out": (plan.held_out, 0.5),
        "latent-rate": (plan.latent_rate, 1),
        "linear-zdim": (config.linear_zdim, 20),
    }
    for name, (value, bound) in most.items():
        if value is not None and value > bound:
            raise InputError(f"--{name} {value}: expected {bound:g} at most")
    if config.recipe == "paper" and network.encoder == "table":
        raise InputError("--encoder table starts from the linear method, which --recipe paper leaves out: give one")
    check_paths(config)
    check_mask(config.mask, config.output, overwrite=config.overwrite)
