"""The stage that refines given poses before anything is learned from them: half sets against each other's maps."""

from __future__ import annotations

from time import perf_counter

from cryomorph.config.console import progress
from cryomorph.config.linear import LinearConfig
from cryomorph.encoders.poses import PoseTable
from cryomorph.latents.linear_fit import HalfState, fit_halves
from cryomorph.particles.store import ParticleStore
from cryomorph.poses.refine import refine_across_halves
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.snapshot import REFINED_FIRST
from cryomorph.training.stages.linear import Consensus, linear_schedule
from cryomorph.volumes.backproject import reconstruct

ROUNDS = 3


def refine_given_poses(run: RunFolder, store: ParticleStore, *, config: LinearConfig) -> None:
    """Refine every particle's pose in a few rounds; each is kept, so that a killed run goes on. See `runs.snapshot`.

    A round fits a linear subspace to either half set, at the poses so far, then refines each particle against the maps
    of the half set that it is not in (`refine_across_halves`).
    """
    begin = perf_counter()
    table, maps, done = PoseTable(len(store)), None, 0
    if (run.path / REFINED_FIRST).is_file():
        tensors, facts = load_tensors(run.path / REFINED_FIRST)
        table.offset, maps, done = tensors["offset"], tensors["maps"], int(facts["round"])
    for number in range(done, ROUNDS):
        placed = store.with_pose(table.corrected(store.require_pose(), store.pixel_A))
        consensus = Consensus.of(reconstruct(placed, description=f"poses: consensus {number + 1}"), placed)
        schedule = linear_schedule(placed, consensus, config=config, go_on=maps is not None)
        with progress(f"poses, round {number + 1} of {ROUNDS}", schedule.work(store, *schedule.half_steps)) as advance:
            halves = fit_halves(
                placed,
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
            f"poses, round {number + 1} of {ROUNDS}: off by {found['rotation_deg_prior']:.2f} degrees about each axis "
            f"and {found['shift_pixel_prior']:.2f} pixels, as the half sets see it; {perf_counter() - begin:.1f} s"
        )
