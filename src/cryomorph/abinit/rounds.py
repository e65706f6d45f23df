"""Rounds of `abinit`: alternating poses and maps over a growing radius, and the latent points at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.abinit.half_sets import (
    MARGIN,
    PosedHalfSets,
    polish_round,
    reconstruct_halves,
    search_round,
    whitened_batches,
)
from cryomorph.abinit.random_starts import RandomStarts
from cryomorph.abinit.record import describe_changes, pose_changes, write_round
from cryomorph.config.abinit import AbinitConfig
from cryomorph.config.console import progress
from cryomorph.config.linear import LinearConfig
from cryomorph.latents.linear_fit import LinearFit
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose, random_rotations
from cryomorph.poses.posterior import MarginalLatents, marginal_latents
from cryomorph.poses.search import SearchPlan, usual_plan
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.training.consensus import Consensus
from cryomorph.training.stages.linear import linear_halves
from cryomorph.volumes.grid import rebox

SEARCH_IMAGES = 10_000  # of all searches but the last
MIN_RADIUS = 4  # Fourier pixels
REFINEMENT_MARGIN = 2  # Fourier pixels beyond the trusted radius, up to which poses are refined
MIN_GAIN = 0.05  # shells of FSC that a refinement must gain for another to follow
LATENT_SEARCHES = 2  # additional searches of all particles, against subspaces
BEAMS, LATENT_BEAMS = 24, 96  # candidates of each image kept after the first level: against maps, against subspaces
MARGINAL_BEAMS = 96  # candidates that a latent point is averaged over
KINDS: tuple[Literal["search", "refine"], ...] = ("search", "refine")
ROUNDS_FILE = "checkpoints/poses.safetensors"


@dataclass(frozen=True)
class Step:
    """One round: a search or a refinement of poses up to a radius in Fourier pixels, of all particles if `whole`.

    `reach` is the FSC of its half maps summed over shells.
    """

    kind: Literal["search", "refine"]
    radius: int
    whole: bool
    reach: float = 0.0


def next_step(done: Sequence[Step], trusted_radius: int, config: AbinitConfig, *, box: int) -> Step | None:
    """The next round: searches up to the largest radius, the last of all particles; then refinements while they gain.

    If components are estimated, all particles are searched a few more times: better poses make better components.

    Args:
        trusted_radius: up to which half maps, or the initial model, can be trusted.
    """
    count = Counter(step.kind for step in done)
    largest = min(config.search_radius, box // 2 - 1)
    radius = max(MIN_RADIUS, min(largest, trusted_radius))
    whole = sum(step.whole and step.kind == "search" for step in done)
    if not whole:
        last = count["search"] > 0 and radius >= largest  # the first search has only a random start to go by
        return Step("search", radius, last or count["search"] + 1 >= config.search_rounds)
    if config.zdim and whole <= LATENT_SEARCHES:
        return Step("search", radius, whole=True)
    refined = count["refine"]
    if refined >= config.polish_rounds or (refined and done[-1].reach < done[-2].reach + MIN_GAIN):
        return None
    return Step("refine", min(box // 2, max(MIN_RADIUS, trusted_radius) + REFINEMENT_MARGIN), whole=True)


def rounds_stage(
    run: RunFolder, store: ParticleStore, starts: RandomStarts, *, config: AbinitConfig, device: torch.device
) -> PosedHalfSets:
    """Run searches over a growing radius, then refinements; poses are saved after each round."""
    few = torch.randperm(len(store), generator=torch.Generator().manual_seed(config.seed))[:SEARCH_IMAGES]
    subsets = {False: few.sort().values, True: torch.arange(len(store))}
    found, done = _load_rounds(run, store, subsets)
    trusted_radius = starts.maps.shape[-1] // 2 if found is None else found.trusted_radius
    while (step := next_step(done, trusted_radius, config, box=store.box)) is not None:
        begin, subset, before = perf_counter(), subsets[step.whole], found
        doing = f"{'searching' if step.kind == 'search' else 'refining'} poses, radius {step.radius}"
        with progress(doing, len(subset)) as bar:

            def advance(count: int, bar: Callable[[int, str], None] = bar, doing: str = doing) -> None:
                bar(count, doing)

            if before is None:
                maps, noise = starts.maps[starts.best].expand(2, -1, -1, -1, -1), starts.noise[starts.best]
            else:
                maps, noise = references(store, before, config), before.noise
            if step.kind == "refine" and before is not None:
                found = polish_round(store, before, maps, radius=step.radius, device=device, advance=advance)
            else:
                found = search_round(
                    store,
                    maps,
                    search_plan(store, step.radius, config),
                    subset=subset,
                    noise=noise,
                    seed=config.seed + len(done),
                    device=device,
                    advance=advance,
                )
        trusted_radius = found.trusted_radius
        done.append(replace(step, reach=float(found.result.fsc.unmasked.clamp(min=0).sum())))
        _keep_round(run, store, found, done, before=before, seconds=perf_counter() - begin)
    if found is None:
        raise ValueError("expected at least one round")
    return found


def search_plan(store: ParticleStore, radius: int, config: AbinitConfig) -> SearchPlan:
    """The search up to a radius; with a latent space more poses remain possible, so that more candidates are kept."""
    beams = LATENT_BEAMS if config.zdim else BEAMS
    return usual_plan(store.box, radius, beams=beams, shift_range=config.shift_range)


def references(store: ParticleStore, found: PosedHalfSets, config: AbinitConfig) -> Float32[Tensor, "two c z y x"]:
    """What the next poses of each half set are compared with: its map, or its linear subspace."""
    if not config.zdim:
        return found.references()[:, None]
    last = len(found.noise) - 1  # of the map, whose box may be smaller than the images'
    beyond = store.box // 2 - last
    precision, noise = (torch.cat([each, each[-1:].expand(beyond)]) for each in (found.result.precision, found.noise))
    consensus = Consensus(rebox(found.result.map, store.box), precision, noise)
    radius = min(last, found.trusted_radius + MARGIN)
    asked = LinearConfig(
        config.particles,
        config.output,
        zdim=config.zdim,
        seed=config.seed,
        contrast=False,
        fix_poses=True,
        max_radius=radius,
    )
    return linear_halves(store.with_pose(found.pose), consensus, found.subset, config=asked)


def _keep_round(
    run: RunFolder,
    store: ParticleStore,
    found: PosedHalfSets,
    done: Sequence[Step],
    *,
    before: PosedHalfSets | None,
    seconds: float,
) -> None:
    """Write a round's map and checkpoint, and report it."""
    step, number, fsc = done[-1], len(done), found.result.fsc
    write_round(run, number, found.result.map, rotation=found.pose.rotation[found.subset], store=store)
    changes: dict[str, float] = {}
    if before is not None:
        changes = pose_changes(found.pose, before.pose, found.subset[torch.isin(found.subset, before.subset)])
    run.record(
        stage=step.kind,
        step=number,
        band=step.radius,
        images=len(found.subset),
        agreed=found.trusted_radius,
        resolution_A=fsc.resolution_0143_A,
        seconds=seconds,
        **changes,
    )
    run.log(
        f"{step.kind} {number}: {len(found.subset)} images, radius {step.radius}; half maps agree to "
        f"{fsc.resolution_0143_A:.2f} A{describe_changes(changes)}; {seconds:.1f} s"
    )
    steps = torch.tensor([[KINDS.index(each.kind), each.radius, each.whole, each.reach] for each in done])
    pose = {"rotation": found.pose.rotation, "shift_A": found.pose.shift_A}
    save_tensors(run.path / ROUNDS_FILE, {**pose, "steps": steps})


def _load_rounds(
    run: RunFolder, store: ParticleStore, subsets: dict[bool, Int64[Tensor, " k"]]
) -> tuple[PosedHalfSets | None, list[Step]]:
    """Poses and rounds of an interrupted run."""
    path = run.path / ROUNDS_FILE
    if not path.is_file():
        return None, []
    kept = load_tensors(path)[0]
    done = [
        Step(KINDS[int(kind)], int(radius), bool(whole), reach) for kind, radius, whole, reach in kept["steps"].tolist()
    ]
    run.log(f"resumed after round {len(done)}")
    pose = Pose(kept["rotation"], kept["shift_A"])
    radius = store.box // 2 if done[-1].kind == "refine" else done[-1].radius + MARGIN
    return reconstruct_halves(store, pose, subsets[done[-1].whole], radius=radius), done


def latents_stage(
    run: RunFolder,
    store: ParticleStore,
    fit: LinearFit,
    *,
    found: PosedHalfSets,
    config: AbinitConfig,
    device: torch.device,
) -> MarginalLatents:
    """Latent points of all particles, each averaged over the posterior of its pose."""
    begin = perf_counter()
    # each component in units of the standard deviation of its coordinates
    scale = (fit.latent_mean.square() + fit.latent_std.square()).mean(0).sqrt().clamp(min=1e-6)
    maps = torch.cat([fit.maps[:1], fit.maps[1:] * scale[:, None, None, None]])
    radius = max(MIN_RADIUS, min(config.search_radius, store.box // 2 - 1, found.trusted_radius))
    plan = search_plan(store, radius, config)
    plan = replace(plan, levels=tuple(replace(level, beams=MARGINAL_BEAMS) for level in plan.levels))
    subset = torch.arange(len(store))
    with progress("latent points", len(store)) as bar:

        def advance(count: int) -> None:
            bar(count, "latent points over all poses")

        batches = whitened_batches(store.unposed(), subset, radius, noise=found.noise, device=device, advance=advance)
        offset = random_rotations(1, torch.Generator().manual_seed(config.seed))[0]
        subspace = LinearSubspace(rebox(maps, max(int(maps.shape[-1]), 2 * (radius + 1))).to(device))
        latents = marginal_latents(subspace, batches, plan, disk=store.disk.within(radius), offset=offset)
    run.log(
        f"latent points averaged over poses: the best pose has a probability of {float(latents.certain.median()):.2f} "
        f"(median); {perf_counter() - begin:.1f} s"
    )
    return MarginalLatents(latents.mean.cpu() * scale, latents.std.cpu() * scale, latents.certain.cpu())
