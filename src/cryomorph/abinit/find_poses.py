"""Ab initio reconstruction: from images without poses to poses, maps and latent points.

See docs/methods.md, "Ab initio".
"""

from __future__ import annotations

from dataclasses import fields
from time import perf_counter

import torch

from cryomorph.abinit.half_sets import PosedHalfSets
from cryomorph.abinit.network_search import find_by_network
from cryomorph.abinit.random_starts import random_starts_stage
from cryomorph.abinit.record import write_poses
from cryomorph.abinit.rounds import MIN_RADIUS, latents_stage, rounds_stage
from cryomorph.compute.device import choose_device
from cryomorph.config.abinit import AbinitConfig
from cryomorph.config.errors import InputError
from cryomorph.config.linear import LinearConfig
from cryomorph.particles.store import ParticleStore
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.folder import RunFolder
from cryomorph.training.consensus import reconstruct_consensus
from cryomorph.training.stages.linear import fit_subspace
from cryomorph.training.start import check_bounds, check_paths, start_run, take_particles

MIN_PARTICLES = 200
MIN_BOX = 16
MIN_HALF_SET = 20  # particles
MAX_START_RADIUS = 32  # Fourier pixels: rotations 15 degrees apart, the grid of a start, resolve nothing finer
MAX_COMPONENTS = 4  # of the subspaces that poses are searched against: the cost grows with their square
DEFAULT_ONLY = ("starts", "start_images", "start_radius", "search_rounds", "polish_rounds")
"""Options that `--recipe paper` does not use."""


def find_poses(config: AbinitConfig) -> RunFolder:
    """Estimate poses and maps; returns the finished run.

    Raises:
        InputError: an option is out of range, the particles cannot be used, or the run folder is in use.
    """
    _check(config)
    begin = perf_counter()
    with start_run(config, "abinit") as run:
        return _find(run, config, begin)


def _find(run: RunFolder, config: AbinitConfig, begin: float) -> RunFolder:
    if run.is_complete:
        run.log(f"{run.path} is already complete: nothing to resume")
        return run
    given = take_particles(run, config, _check_particles, posed=False)
    store = given.unposed()
    device = choose_device(config.device)
    if config.recipe == "paper":
        find_by_network(run, given, store, config=config, device=device)
    else:
        starts = random_starts_stage(run, store, config)
        found = rounds_stage(run, store, starts, config=config, device=device)
        _finish(run, given, found, config=config, device=device)
    written = run.path / given.manifest.metadata
    following = f"analyze {run.path}" if config.zdim else f"train linear {written}"
    run.log(f"done in {perf_counter() - begin:.1f} s: {run.path}; next: cryomorph {following}")
    return run


def _finish(
    run: RunFolder, store: ParticleStore, found: PosedHalfSets, *, config: AbinitConfig, device: torch.device
) -> None:
    """Write poses, consensus, latents and model; the model last."""
    write_poses(run, store, found.pose)
    posed = store.with_pose(found.pose)
    consensus = reconstruct_consensus(run, posed)
    if not config.zdim:
        run.save_latent(torch.zeros(len(store), 0), torch.zeros(len(store), 0))
        run.save_model(LinearSubspace(consensus.map[None]), {})
        return
    linear = LinearConfig(
        config.particles, config.output, zdim=config.zdim, seed=config.seed, contrast=False, fix_poses=True
    )
    fit = fit_subspace(run, posed, consensus, config=linear)
    latents = latents_stage(run, store, fit, found=found, config=config, device=device)
    run.save_latent(latents.mean, latents.std)
    run.save_model(LinearSubspace(fit.maps), {"variance": fit.variance, "reproducibility": fit.reproducibility})


def _check_particles(store: ParticleStore) -> None:
    """Refuse sets that are too small."""
    if store.box < MIN_BOX:
        raise InputError(f"box {store.box} is too small to find poses: give a --box of at least {MIN_BOX}")
    if len(store) < MIN_PARTICLES:
        raise InputError(f"{len(store)} particles are too few to find their poses: give at least {MIN_PARTICLES}")
    halves = torch.bincount(store.half, minlength=2)
    if int(halves.min()) < MIN_HALF_SET:
        raise InputError(
            f"half sets of {int(halves[0])} and {int(halves[1])} particles: expected at least {MIN_HALF_SET} in "
            "each; remove the column rlnRandomSubset (or alignments3D/split), or assign half sets at random again"
        )


def _check(config: AbinitConfig) -> None:
    """Refuse options that cannot work before anything is written."""
    _check_recipe(config)
    paper = config.paper
    check_bounds(
        {
            "starts": (config.starts, 1),
            "start-images": (config.start_images, MIN_PARTICLES),
            "start-radius": (config.start_radius, MIN_RADIUS),
            "search-radius": (config.search_radius, MIN_RADIUS),
            "search-rounds": (config.search_rounds, 1),
            "polish-rounds": (config.polish_rounds, 0),
            "zdim": (config.zdim, 0),
            "shift-range": (config.shift_range, 0),
            "random-images": (paper.random_images, 0),
            "searches": (paper.searches, 1),
            "search-every": (paper.search_every, 1),
            "width": (paper.width, 1),
            "layers": (paper.layers, 1),
            "batch-size": (paper.batch_size, 1),
            "learning-rate": (paper.learning_rate, 0),
            "final-epochs": (paper.final_epochs, 1),
            "final-width": (paper.final_width, 1),
        },
        {
            "zdim": (config.zdim, MAX_COMPONENTS),
            "shift-range": (config.shift_range, 0.25),
            "starts": (config.starts, 50),
            "start-radius": (config.start_radius, MAX_START_RADIUS),
        },
    )
    choose_device(config.device)
    check_paths(config)


def _check_recipe(config: AbinitConfig) -> None:
    """Refuse options of the other recipe, which would have no effect."""
    other, asked = ("paper", config.paper) if config.recipe == "default" else ("default", config)
    for option in fields(asked):
        shared = other == "default" and option.name not in DEFAULT_ONLY
        if not shared and getattr(asked, option.name) != option.default:
            flag = option.name.replace("_", "-")
            raise InputError(f"--{flag} applies to --recipe {other} only: omit it, or give that recipe")
