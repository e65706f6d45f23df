"""A trained method from a particle file to a run: particles, then the stages of its recipe."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import torch

from cryomorph.compute.device import choose_device
from cryomorph.compute.distributed import Parallel, join_processes
from cryomorph.config.errors import InputError
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.folder import RunFolder
from cryomorph.training.device import choose_precision
from cryomorph.training.session import Method, Session, TrainedConfig
from cryomorph.training.start import Bounds, check_bounds, check_particles, start_run, take_particles

MOST_DIMENSIONS = 128


def train_method(config: TrainedConfig, method: Method) -> RunFolder:
    """Train by a method's recipe; returns the finished run. Started by `torchrun`, all processes train one model.

    Args:
        config: with every field filled in that a recipe chooses.

    Raises:
        InputError: particles that cannot be used, or a run folder that is in use.
    """
    with join_processes(choose_device(config.training.device)) as processes:
        return _train(config, method, processes)


def _train(config: TrainedConfig, method: Method, processes: Parallel) -> RunFolder:
    begin = perf_counter()
    with processes.rank_zero_first() as alone:
        run = start_run(config, method.name) if alone else RunFolder(config.output, quiet=True)
        if run.is_complete:
            run.log(f"{run.path} is complete already: nothing to resume")
            return run

        def accept(given: ParticleStore) -> None:
            check_particles(given, zdim=config.zdim, mask=config.mask)
            method.accept(config, given)

        # not with poses that an interrupted run has refined: the stages come to them by themselves
        store = take_particles(run, config, accept) if alone else run.given_store()
    plan = choose_precision(config.training, processes.device)
    run.log(
        f"training on {processes.world_size} {processes.device.type} "
        f"process{'es' if processes.world_size > 1 else ''}, {plan.precision}, {torch.get_num_threads()} threads"
    )
    session = Session(method, run, store, replace(config, training=plan), processes)
    for stage in method.recipes[config.recipe]:
        stage(session)
    following = f"next: cryomorph analyze {run.path}" if config.zdim else f"the map is {run.path / 'map.mrc'}"
    run.log(f"done in {perf_counter() - begin:.1f} s: {run.path}; {following}")
    return run


def check_numbers(config: TrainedConfig, *, least: Bounds | None = None, most: Bounds | None = None) -> None:
    """Refuse numbers that cannot be trained with before anything is written.

    Args:
        least, most: bounds of the method's own options, beside those that all methods have: value and bound by name.

    Raises:
        InputError: an option out of range.
    """
    plan = config.training
    lower: Bounds = {
        "zdim": (config.zdim, 0),
        "epochs": (plan.epochs, 1),
        "batch-size": (plan.batch_size, 1),
        "learning-rate": (plan.learning_rate, 0),
        "latent-rate": (plan.latent_rate, 0),
        "beta": (plan.beta, 0),
        "first-band": (plan.first_band, 2),
        "band-share": (plan.band_share, 0),
        "held-out": (plan.held_out, 0),
        "patience": (plan.patience, 0),
        "prior-weight": (plan.prior_weight, 0),
        "pose-spread": (plan.pose_spread, 0),
        "pose-epoch": (plan.pose_epoch, 1),
        "checkpoint-minutes": (plan.checkpoint_minutes, 0),
        "linear-zdim": (config.linear_zdim, min(config.zdim, 1)),
        "linear-band": (config.linear_band, 6),
        "warm-steps": (config.warm_steps, 0),
    }
    upper: Bounds = {
        "zdim": (config.zdim, MOST_DIMENSIONS),
        "band-share": (plan.band_share, 1),
        "held-out": (plan.held_out, 0.5),
        "latent-rate": (plan.latent_rate, 1),
        "pose-spread": (plan.pose_spread, 30),
        "linear-zdim": (config.linear_zdim, 20),
    }
    check_bounds(lower | (least or {}), upper | (most or {}))
    check_together(config)


def check_together(config: TrainedConfig) -> None:
    """Refuse options that would do nothing beside each other.

    Raises:
        InputError: such a pair.
    """
    plan = config.training
    if plan.prior == "disentangle" and not config.zdim:
        raise InputError("--prior disentangle orders a latent space, and --zdim 0 has none: leave one of them away")
    if plan.prior == "disentangle" and config.network.encoder == "table" and not plan.latent_rate:
        raise InputError("--prior disentangle moves latent points, and --latent-rate 0 holds a table's: give 0.3")
    if plan.final_model == "best" and (not plan.held_out or plan.band_share == 1):
        raise InputError(
            "--final-model best is chosen by held-out particles at the full band: give a --held-out above 0 and a "
            "--band-share below 1"
        )
