"""Ab initio: from images without poses to a map, poses, and word on whether to trust them (METHODS 6)."""

from __future__ import annotations

from dataclasses import fields
from time import perf_counter

import torch

from cryomorph.abinit.half_sets import Poses
from cryomorph.abinit.initial_model import unposed
from cryomorph.abinit.network_search import find_by_network
from cryomorph.abinit.record import keep_poses
from cryomorph.abinit.rounds import FIRST_BAND, latents_stage, rounds_stage
from cryomorph.abinit.starts import starts_stage
from cryomorph.compute.device import choose_device
from cryomorph.config.abinit import AbinitConfig
from cryomorph.config.errors import InputError
from cryomorph.config.linear import LinearConfig
from cryomorph.particles.store import ParticleStore
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.folder import RunFolder
from cryomorph.training.stages.linear import consensus_stage, linear_stage
from cryomorph.training.start import check_bounds, check_paths, start_run, take_particles

FEWEST = 200  # particles
SMALLEST_BOX = 16
FEWEST_OF_A_HALF = 20
WIDEST_START = 32  # Fourier pixels: a start goes through all rotations 15 degrees apart, which tell no finer details
OWN = ("starts", "start_images", "start_band", "search_rounds", "polish_rounds")  # options that the paper's has not
MOST_COMPONENTS = 4  # of the subspaces that poses are searched against: the cost goes with their square


def find_poses(config: AbinitConfig) -> RunFolder:
    """Find poses and map; returns the finished run.

    Raises:
        InputError: an option out of range, particles that cannot be used, or a run folder that is in use.
    """
    _check(config)
    begin = perf_counter()
    run = start_run(config, "abinit")
    if run.is_complete:
        run.log(f"{run.path} is complete already: nothing to resume")
        return run
    given = take_particles(run, config, _check_particles, posed=False)
    store = unposed(given)
    device = choose_device(config.device)
    if config.recipe == "paper":
        find_by_network(run, given, store, config=config, device=device)
    else:
        starts = starts_stage(run, store, config)
        found = rounds_stage(run, store, starts, config=config, device=device)
        _finish(run, given, found, config=config, device=device)
    written = run.path / given.manifest.metadata
    following = f"analyze {run.path}" if config.zdim else f"train linear {written}"
    run.log(f"done in {perf_counter() - begin:.1f} s: {run.path}; next: cryomorph {following}")
    return run


def _finish(run: RunFolder, store: ParticleStore, found: Poses, *, config: AbinitConfig, device: torch.device) -> None:
    """Poses, consensus and model; the model last."""
    keep_poses(run, store, found.pose)
    posed = store.with_pose(found.pose)
    consensus = consensus_stage(run, posed)
    if not config.zdim:
        run.save_latent(torch.zeros(len(store), 0), torch.zeros(len(store), 0))
        run.save_model(LinearSubspace(consensus.map[None]), {})
        return
    asked = LinearConfig(config.particles, config.output, zdim=config.zdim, seed=config.seed)
    fit = linear_stage(run, posed, consensus, config=asked)
    latents = latents_stage(run, store, fit, found=found, config=config, device=device)
    run.save_latent(latents.mean, latents.std)
    run.save_model(LinearSubspace(fit.maps), {"variance": fit.variance, "reproducibility": fit.reproducibility})


def _check_particles(store: ParticleStore) -> None:
    if store.box < SMALLEST_BOX:
        raise InputError(f"box {store.box} is too small to find poses in: give a --box of at least {SMALLEST_BOX}")
    if len(store) < FEWEST:
        raise InputError(f"{len(store)} particles are too few to find their poses: give at least {FEWEST}")
    halves = torch.bincount(store.half, minlength=2)
    if int(halves.min()) < FEWEST_OF_A_HALF:
        raise InputError(
            f"half sets of {int(halves[0])} and {int(halves[1])} particles: expected at least {FEWEST_OF_A_HALF} in "
            "each; take the column rlnRandomSubset (or alignments3D/split) away, or draw it anew"
        )


def _check(config: AbinitConfig) -> None:
    """Refuse what cannot work before anything is written."""
    _check_recipe(config)
    paper = config.paper
    check_bounds(
        {
            "starts": (config.starts, 1),
            "start-images": (config.start_images, FEWEST),
            "start-band": (config.start_band, FIRST_BAND),
            "search-band": (config.search_band, FIRST_BAND),
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
            "zdim": (config.zdim, MOST_COMPONENTS),
            "shift-range": (config.shift_range, 0.25),
            "starts": (config.starts, 50),
            "start-band": (config.start_band, WIDEST_START),
        },
    )
    choose_device(config.device)
    check_paths(config)


def _check_recipe(config: AbinitConfig) -> None:
    """Refuse options of the recipe that was not asked for: they would do nothing."""
    other, asked = ("paper", config.paper) if config.recipe == "default" else ("default", config)
    for option in fields(asked):
        shared = other == "default" and option.name not in OWN
        if not shared and getattr(asked, option.name) != option.default:
            flag = option.name.replace("_", "-")
            raise InputError(f"--{flag} belongs to --recipe {other}: leave it away, or give that recipe")
