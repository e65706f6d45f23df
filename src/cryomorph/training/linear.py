"""The linear method from a particle file to a run: particles, consensus, subspace."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import torch

from cryomorph.config.errors import InputError
from cryomorph.config.linear import LinearConfig
from cryomorph.config.load import as_json
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.folder import RunFolder
from cryomorph.training.stages import consensus_stage, linear_stage, particles_stage, read_mask

REPRODUCIBLE = 0.5  # half-set correlation above which a component is called reproducible
SMALLEST_SET = 20
NAMED_MASKS = ("auto", "sphere")


def train_linear(config: LinearConfig) -> RunFolder:
    """Fit a linear subspace; returns the finished run.

    Raises:
        InputError: an option out of range, particles that cannot be used, or a run folder that is in use.
    """
    _check(config)
    torch.manual_seed(config.seed)
    begin = perf_counter()
    asked = {"method": "linear", **as_json(config)}
    for control in ("resume", "overwrite", "output"):
        asked.pop(control)
    run = RunFolder.create(config.output, asked, resume=config.resume, overwrite=config.overwrite)
    if run.is_complete:
        run.log(f"{run.path} is complete already: nothing to resume")
        return run
    try:
        store = particles_stage(run, config.particles, config.images, seed=config.seed)
        if len(store) < max(SMALLEST_SET, 2 * config.zdim):
            raise InputError(
                f"{len(store)} particles are too few for --zdim {config.zdim}: give more, or a smaller --zdim"
            )
        if config.mask not in NAMED_MASKS:
            read_mask(Path(config.mask), store.box)
    except (InputError, OSError):
        if not config.resume:
            run.discard()
        raise
    run.settle()
    fit = linear_stage(run, store, consensus_stage(run, store), config=config)
    run.save_latent(fit.latent_mean, fit.latent_std)
    if config.contrast:
        run.save_array("contrast.npy", fit.contrast.numpy())
    run.save_model(
        LinearSubspace(fit.maps), {"variance": fit.variance, "reproducibility": fit.reproducibility}, "linear"
    )
    believed = int((fit.reproducibility > REPRODUCIBLE).sum())
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
    if config.mask not in NAMED_MASKS and not Path(config.mask).is_file():
        raise InputError(f"--mask {config.mask}: no such file; expected a mask file, auto or sphere")
    if config.overwrite and config.output.resolve() in Path(config.mask).resolve().parents:
        raise InputError(f"--mask {config.mask} lies in the run that --overwrite replaces: copy it elsewhere first")
    if not config.particles.exists():
        raise InputError(f"{config.particles}: no such particle file or store")
    if config.overwrite and config.output.resolve() in config.particles.resolve().parents:
        raise InputError(
            f"--overwrite would remove {config.particles} with the run {config.output} that holds it: give another -o"
        )
