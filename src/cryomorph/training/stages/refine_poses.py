"""Refinement of the given poses before training: half sets against each other's maps."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

from cryomorph.config.console import progress
from cryomorph.config.linear import LinearConfig
from cryomorph.config.training import ResolvedMethod
from cryomorph.encoders.poses import PoseTable
from cryomorph.latents.linear_fit import HalfState, fit_halves
from cryomorph.particles.store import ParticleStore
from cryomorph.poses.refine import refine_across_halves
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.snapshot import REFINED_FIRST, with_refined
from cryomorph.training.consensus import Consensus
from cryomorph.training.session import Session
from cryomorph.training.stages.linear import linear_options, linear_schedule
from cryomorph.volumes.backproject import reconstruct

ROUNDS = 3
COMPONENTS = 6  # at least: motion that these cannot follow would be taken for errors of the poses


def refine_poses(session: Session[ResolvedMethod]) -> None:
    """Refine the given poses with the linear method, if requested; all that follows uses the refined ones."""
    config = session.config
    if config.training.refine_poses:
        with session.parallel.rank_zero_first() as is_rank_zero:
            if is_rank_zero:
                components = max(config.linear_zdim, COMPONENTS) if config.zdim else 0
                refine_given_poses(session.run, session.store, config=replace(linear_options(config), zdim=components))
        session.store = with_refined(session.run.path, session.store)


def refine_given_poses(run: RunFolder, store: ParticleStore, *, config: LinearConfig) -> None:
    """Refine the poses of all particles in a few rounds; each is kept, so that a killed run resumes.

    A round fits a linear subspace to each half set at the current poses, then refines each particle against the maps of
    the other half set (`refine_across_halves`).
    """
    begin = perf_counter()
    table, maps, done = PoseTable(len(store)), None, 0
    if (run.path / REFINED_FIRST).is_file():
        tensors, facts = load_tensors(run.path / REFINED_FIRST)
        table.offset, maps, done = tensors["offset"], tensors["maps"], int(facts["round"])
    for number in range(done, ROUNDS):
        posed = store.with_pose(table.corrected(store.require_pose(), store.pixel_A))
        consensus = Consensus.of(reconstruct(posed, description=f"poses: consensus {number + 1}"), posed)
        schedule = linear_schedule(posed, consensus, config=config, warm=maps is not None)
        with progress(f"poses, round {number + 1} of {ROUNDS}", schedule.work(store, *schedule.half_steps)) as advance:
            halves = fit_halves(
                posed,
                consensus.map,
                schedule,
                zdim=config.zdim,
                resume=None if maps is None else HalfState(0, maps),
                report=lambda state, likelihood: None,
                advance=advance,
            )
        maps = halves.maps
        found = refine_across_halves(maps, store, table, whitening=schedule.whitening)
        save_tensors(run.path / REFINED_FIRST, {"offset": table.offset, "maps": maps}, round=str(number + 1))
        run.record(stage="poses", round=number + 1, **found)
        run.log(
            f"poses, round {number + 1} of {ROUNDS}: estimated errors {found['rotation_deg_prior']:.2f} degrees about "
            f"each axis and {found['shift_pixel_prior']:.2f} pixels; {perf_counter() - begin:.1f} s"
        )
