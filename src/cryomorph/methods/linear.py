"""The linear method from a particle file to a run: particles, consensus, subspace."""

from __future__ import annotations

from functools import partial
from time import perf_counter

import torch

from cryomorph.config.errors import InputError
from cryomorph.config.linear import LinearConfig
from cryomorph.latents.linear_fit import is_reproducible
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.folder import RunFolder
from cryomorph.training.stages.linear import consensus_stage, linear_stage
from cryomorph.training.start import (
    check_mask,
    check_particles,
    check_paths,
    start_run,
    take_particles,
)


def train_linear(config: LinearConfig) -> RunFolder:
    """Fit a linear subspace; returns the finished run.

    Raises:
        InputError: an option out of range, particles that cannot be used, or a run folder that is in use.
    """
    _check(config)
    torch.manual_seed(config.seed)
    begin = perf_counter()
    run = start_run(config, "linear")
    if run.is_complete:
        run.log(f"{run.path} is complete already: nothing to resume")
        return run
    store = take_particles(run, config, partial(check_particles, zdim=config.zdim, mask=config.mask))
    fit = linear_stage(run, store, consensus_stage(run, store), config=config)
    run.save_latent(fit.latent_mean, fit.latent_std)
    if config.contrast:
        run.save_array("contrast.npy", fit.contrast.numpy())
    run.save_model(LinearSubspace(fit.maps), {"variance": fit.variance, "reproducibility": fit.reproducibility})
    believed = int(is_reproducible(fit.reproducibility.numpy()).sum())
    agreement = " ".join(f"{value:.2f}" for value in fit.reproducibility.tolist())
    run.log(f"half sets agree on {believed} of {config.zdim} components (correlation {agreement})")
    run.log(f"done in {perf_counter() - begin:.1f} s: {run.path}; next: cryomorph analyze {run.path}")
    return run


def _check(config: LinearConfig) -> None:
    """Refuse what cannot be fitted before anything is written."""
    if config.recipe != "default":
        raise InputError(
            f"--recipe {config.recipe}: the linear method has no publication's schedule: leave --recipe away"
        )
    if not 1 <= config.zdim <= 20:
        raise InputError(f"--zdim {config.zdim}: expected 1 to 20")
    for name in ("iterations", "final_iterations"):
        if getattr(config, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(config, name)}: expected 1 or more")
    if config.seed < 0:
        raise InputError(f"--seed {config.seed}: expected 0 or more")
    if config.max_radius < 6:
        raise InputError(f"--max-radius {config.max_radius}: expected 6 or more")
    check_paths(config)
    check_mask(config.mask, config.output, overwrite=config.overwrite)
