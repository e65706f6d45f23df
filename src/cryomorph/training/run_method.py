"""A method from a particle file to a finished run: particles, then the stages of its recipe."""

from __future__ import annotations

from contextlib import ExitStack
from time import perf_counter
from typing import Any

import torch

from cryomorph.compute.device import choose_device
from cryomorph.compute.distributed import Parallel, join_processes
from cryomorph.config.errors import InputError
from cryomorph.config.run import MethodOptions
from cryomorph.config.shell import command
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.folder import RunFolder
from cryomorph.training.session import Method, Session
from cryomorph.training.start import check_mask, check_particles, check_paths, start_run, take_particles


def train_method(config: MethodOptions, method: Method[Any]) -> RunFolder:
    """Fit a method to particles; returns the finished run. Processes started by `torchrun` train one model together.

    Raises:
        InputError: an option out of range, unusable particles, or a run folder that is in use.
    """
    if config.recipe not in method.recipes:
        raise InputError(f"--recipe {config.recipe}: the method {method.name} has only {', '.join(method.recipes)}")
    config = method.by_recipe(config)
    method.check(config)
    check_paths(config)
    check_mask(config.mask, config.output, overwrite=config.overwrite)
    with join_processes(choose_device(config.device)) as processes, ExitStack() as held:
        return _train(config, method, processes, held=held)


def _train(config: MethodOptions, method: Method[Any], processes: Parallel, *, held: ExitStack) -> RunFolder:
    """Train in one of the processes; `held` keeps the run folder locked until the end."""
    begin = perf_counter()
    torch.manual_seed(config.seed)
    with processes.rank_zero_first() as is_rank_zero:
        run = RunFolder(config.output, quiet=True)
        if is_rank_zero:
            run = held.enter_context(start_run(config, method.name))
        if run.is_complete:
            run.log(f"{run.path} is complete already: nothing to resume")
            return run

        def accept(given: ParticleStore) -> None:
            check_particles(given, zdim=config.zdim, mask=config.mask)
            method.accept(config, given)

        # without poses that an interrupted run has refined: the stages read those themselves
        store = take_particles(run, config, accept) if is_rank_zero else run.given_store()
    resolved = method.resolve(config, store, processes.device)
    threads = torch.get_num_threads()
    session = Session(method, resolved, run=run, store=store, parallel=processes)
    run.log(
        f"training on {processes.world_size} {processes.device.type} "
        f"process{'es' if processes.world_size > 1 else ''}, {threads} thread{'s' * (threads != 1)}"
    )
    for stage in method.recipes[config.recipe]:
        stage(session)
    following = (
        f"next: {command('cryomorph', 'analyze', run.path)}" if config.zdim else f"the map is {run.path / 'map.mrc'}"
    )
    run.log(f"done in {perf_counter() - begin:.1f} s: {run.path}; {following}")
    return run
