"""Rounds of `abinit`: poses and maps in turn over a growing band, and the latent points that they end with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.abinit.half_sets import BEYOND, Poses, mapped, polish_round, search_round, whitened
from cryomorph.abinit.initial_model import unposed
from cryomorph.abinit.record import keep_round, moved, moved_in_words
from cryomorph.abinit.starts import Starts
from cryomorph.config.abinit import AbinitConfig
from cryomorph.config.console import progress
from cryomorph.config.linear import LinearConfig
from cryomorph.latents.linear_fit import LinearFit
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose, random_rotations
from cryomorph.poses.posterior import MarginalLatents, marginal_latents
from cryomorph.poses.search import SearchPlan, usual_plan
from cryomorph.representations.linear import LinearSubspace, rebox
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.training.stages.linear import Consensus, linear_halves

FIRST_SEARCHES = 10_000  # images of all searches but the last
FIRST_BAND = 4  # Fourier pixels
MARGIN = 2  # Fourier pixels beyond those that half maps agree on, in which poses are refined
GAIN = 0.05  # shells of FSC that a refinement must gain for another to follow
LATENT_SEARCHES = 2  # more of all particles, against subspaces
BEAMS, LATENT_BEAMS = 24, 96  # candidates of each image after the first level: of maps, and of subspaces
POSSIBLE_POSES = 96  # candidates that a latent point is averaged over
KINDS: tuple[Literal["search", "refine"], ...] = ("search", "refine")
ROUNDS = "checkpoints/poses.safetensors"


@dataclass(frozen=True)
class Step:
    """One round: a search or a refinement of poses, its band in Fourier pixels, and whether of all particles.

    `reach` is how far its half maps agree: their FSC summed over shells.
    """

    kind: Literal["search", "refine"]
    band: int
    whole: bool
    reach: float = 0.0


def next_step(done: Sequence[Step], agreed: int, config: AbinitConfig, *, box: int) -> Step | None:
    """Searches until the band is as wide as they go, the last one of all particles; then refinements while they gain.

    Where there are components to find, all particles are searched some more times: better poses make better components.

    Args:
        agreed: the last shell to which half maps, or the start, can be trusted.
    """
    count = Counter(step.kind for step in done)
    widest = min(config.search_band, box // 2 - 1)
    band = max(FIRST_BAND, min(widest, agreed))
    whole = sum(step.whole and step.kind == "search" for step in done)
    if not whole:
        wide = count["search"] > 0 and band >= widest  # the first search knows nothing but a random start
        return Step("search", band, wide or count["search"] + 1 >= config.search_rounds)
    if config.zdim and whole <= LATENT_SEARCHES:
        return Step("search", band, whole=True)
    refined = count["refine"]
    if refined >= config.polish_rounds or (refined and done[-1].reach < done[-2].reach + GAIN):
        return None
    return Step("refine", min(box // 2, max(FIRST_BAND, agreed) + MARGIN), whole=True)


def rounds_stage(
    run: RunFolder, store: ParticleStore, starts: Starts, *, config: AbinitConfig, device: torch.device
) -> Poses:
    """Searches over a growing band, then refinements; poses are kept after each round."""
    few = torch.randperm(len(store), generator=torch.Generator().manual_seed(config.seed))[:FIRST_SEARCHES]
    subsets = {False: few.sort().values, True: torch.arange(len(store))}
    found, done = _load_rounds(run, store, subsets)
    agreed = starts.maps.shape[-1] // 2 if found is None else found.agreed
    while (step := next_step(done, agreed, config, box=store.box)) is not None:
        begin, subset, before = perf_counter(), subsets[step.whole], found
        doing = f"{'searching' if step.kind == 'search' else 'refining'} poses, band {step.band}"
        with progress(doing, len(subset)) as bar:

            def advance(count: int, bar: Callable[[int, str], None] = bar, doing: str = doing) -> None:
                bar(count, doing)

            if before is None:
                maps, noise = starts.maps[starts.best].expand(2, -1, -1, -1, -1), starts.noise[starts.best]
            else:
                maps, noise = references(store, before, config), before.noise
            if step.kind == "refine" and before is not None:
                found = polish_round(store, before, maps, band=step.band, device=device, advance=advance)
            else:
                found = search_round(
                    store,
                    maps,
                    search_plan(store, step.band, config),
                    subset=subset,
                    noise=noise,
                    seed=config.seed + len(done),
                    device=device,
                    advance=advance,
                )
        agreed = found.agreed
        done.append(replace(step, reach=float(found.result.fsc.unmasked.clamp(min=0).sum())))
        _keep_round(run, store, found, done, before=before, seconds=perf_counter() - begin)
    if found is None:
        raise ValueError("no rounds")
    return found


def search_plan(store: ParticleStore, band: int, config: AbinitConfig) -> SearchPlan:
    """How poses are searched up to a band; a latent point leaves more poses possible, and so more of them go on."""
    beams = LATENT_BEAMS if config.zdim else BEAMS
    return usual_plan(store.box, band, beams=beams, shift_range=config.shift_range)


def references(store: ParticleStore, found: Poses, config: AbinitConfig) -> Float32[Tensor, "two c z y x"]:
    """What the half sets say that their particles look like, to compare the next poses with: maps, or subspaces."""
    if not config.zdim:
        return found.halves()[:, None]
    last = len(found.noise) - 1  # the map's, which may lie in a smaller box than the images
    beyond = store.box // 2 - last
    precision, noise = (torch.cat([each, each[-1:].expand(beyond)]) for each in (found.result.precision, found.noise))
    consensus = Consensus(rebox(found.result.map, store.box), precision, noise)
    band = min(last, found.agreed + BEYOND)
    asked = LinearConfig(config.particles, config.output, zdim=config.zdim, seed=config.seed, max_radius=band)
    return linear_halves(store.with_pose(found.pose), consensus, found.subset, config=asked)


def _keep_round(
    run: RunFolder, store: ParticleStore, found: Poses, done: Sequence[Step], *, before: Poses | None, seconds: float
) -> None:
    """What a round leaves: poses to go on from, a map to look at, a line for the user."""
    step, number, fsc = done[-1], len(done), found.result.fsc
    keep_round(run, number, found.result.map, rotation=found.pose.rotation[found.subset], store=store)
    change: dict[str, float] = {}
    if before is not None:
        change = moved(found.pose, before.pose, found.subset[torch.isin(found.subset, before.subset)])
    run.record(
        stage=step.kind,
        step=number,
        band=step.band,
        images=len(found.subset),
        agreed=found.agreed,
        resolution_A=fsc.resolution_0143_A,
        seconds=seconds,
        **change,
    )
    run.log(
        f"{step.kind} {number}: {len(found.subset)} images to band {step.band}; half maps agree to "
        f"{fsc.resolution_0143_A:.2f} A{moved_in_words(change)}; {seconds:.1f} s"
    )
    steps = torch.tensor([[KINDS.index(each.kind), each.band, each.whole, each.reach] for each in done])
    pose = {"rotation": found.pose.rotation, "shift_A": found.pose.shift_A}
    save_tensors(run.path / ROUNDS, {**pose, "steps": steps})


def _load_rounds(
    run: RunFolder, store: ParticleStore, subsets: dict[bool, Int64[Tensor, " k"]]
) -> tuple[Poses | None, list[Step]]:
    """Where an interrupted run stands."""
    path = run.path / ROUNDS
    if not path.is_file():
        return None, []
    kept = load_tensors(path)[0]
    done = [
        Step(KINDS[int(kind)], int(band), bool(whole), reach) for kind, band, whole, reach in kept["steps"].tolist()
    ]
    run.log(f"resumed after round {len(done)}")
    pose = Pose(kept["rotation"], kept["shift_A"])
    radius = store.box // 2 if done[-1].kind == "refine" else done[-1].band + BEYOND
    return mapped(store, pose, subsets[done[-1].whole], radius=radius), done


def latents_stage(
    run: RunFolder,
    store: ParticleStore,
    fit: LinearFit,
    *,
    found: Poses,
    config: AbinitConfig,
    device: torch.device,
) -> MarginalLatents:
    """Latent points of all particles, averaged over the poses that each may have."""
    begin = perf_counter()
    # each component in units of what its coordinates vary by
    scale = (fit.latent_mean.square() + fit.latent_std.square()).mean(0).sqrt().clamp(min=1e-6)
    maps = torch.cat([fit.maps[:1], fit.maps[1:] * scale[:, None, None, None]])
    band = max(FIRST_BAND, min(config.search_band, store.box // 2 - 1, found.agreed))
    plan = search_plan(store, band, config)
    plan = replace(plan, levels=tuple(replace(level, beams=POSSIBLE_POSES) for level in plan.levels))
    subset = torch.arange(len(store))
    with progress("latent points", len(store)) as bar:

        def advance(count: int) -> None:
            bar(count, "latent points over all poses")

        batches = whitened(unposed(store), subset, band, noise=found.noise, device=device, advance=advance)
        offset = random_rotations(1, torch.Generator().manual_seed(config.seed))[0]
        subspace = LinearSubspace(rebox(maps, max(int(maps.shape[-1]), 2 * (band + 1))).to(device))
        latents = marginal_latents(subspace, batches, plan, disk=store.disk.within(band), offset=offset)
    run.log(
        f"latent points over the poses left: the likeliest has a probability of {float(latents.certain.median()):.2f} "
        f"(median); {perf_counter() - begin:.1f} s"
    )
    return MarginalLatents(latents.mean.cpu() * scale, latents.std.cpu() * scale, latents.certain.cpu())
