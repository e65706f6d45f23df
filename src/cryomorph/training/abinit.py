"""Ab initio: from images without poses to a map, poses, and word on whether to trust them (METHODS 6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from time import perf_counter
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.config.abinit import AbinitConfig
from cryomorph.config.console import progress
from cryomorph.config.errors import InputError
from cryomorph.config.linear import LinearConfig
from cryomorph.inference.pose_rounds import BEYOND, Poses, mapped, polish_round, search_round
from cryomorph.inference.pose_search import usual_plan
from cryomorph.inference.random_start import Moments, Start, StartPlan, held_out_likelihood, random_start, unposed
from cryomorph.io.mrc import write_map
from cryomorph.models.machine import choose_device
from cryomorph.particles.metadata import rewrite_poses
from cryomorph.particles.projection_class import projection_classes
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose, rotation_distance_deg
from cryomorph.representations.linear import LinearSubspace, rebox
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.training.stages import consensus_stage, linear_stage
from cryomorph.training.start import check_bounds, check_paths, start_run, take_particles
from cryomorph.volumes.align import align_maps
from cryomorph.volumes.fsc import fsc

FEWEST = 200  # particles
SMALLEST_BOX = 16
FEWEST_OF_A_HALF = 20
WIDEST_START = 32  # Fourier pixels: a start goes through all rotations 15 degrees apart, which tell no finer details
HELD_OUT = 300  # images that starts are judged by
SAME_FSC, SAME_BAND = 0.5, 0.8  # two starts are the same structure where their FSC is above one in the other's share
FIRST_SEARCHES = 10_000  # images of all searches but the last
FIRST_BAND = 4  # Fourier pixels
MARGIN = 2  # Fourier pixels beyond those that half maps agree on, in which poses are refined
GAIN = 0.05  # shells of FSC that a refinement must gain for another to follow
VIEWS = 192  # directions of the histogram of views
KINDS: tuple[Literal["search", "refine"], ...] = ("search", "refine")
STARTS, ROUNDS = "checkpoints/starts.safetensors", "checkpoints/poses.safetensors"


@dataclass(frozen=True)
class Starts:
    """Random starts that are done: maps and noise of each, and the held-out log-likelihood in nats an image.

    `shared` is how far each agrees with the best, once laid upon it in its better hand: the share of the band to which
    their FSC stays above 0.5.
    """

    maps: Float32[Tensor, "s z y x"]
    noise: Float32[Tensor, "s shells"]
    likelihood: Float32[Tensor, " s"]

    @property
    def best(self) -> int:
        """The start that explains held-out images best."""
        return int(self.likelihood.argmax())

    def shared(self) -> list[float]:
        """How far each start and the best are one structure: 1 to the end of the band."""
        found = []
        for number, map in enumerate(self.maps):
            if number == self.best:
                found.append(1.0)
                continue
            curve = fsc(align_maps(map, self.maps[self.best]).aligned, self.maps[self.best])[1:]
            below = (curve < SAME_FSC).nonzero()
            found.append((int(below[0]) if len(below) else len(curve)) / len(curve))
        return found

    def agreeing(self) -> int:
        """How many starts, the best among them, came to the best one's structure."""
        return sum(share >= SAME_BAND for share in self.shared())


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
    starts = starts_stage(run, store, config)
    found = rounds_stage(run, store, starts, config=config, device=device)
    _finish(run, given, found, config)
    written = run.path / given.manifest.metadata
    run.log(f"done in {perf_counter() - begin:.1f} s: {run.path}; next: cryomorph train linear {written}")
    return run


def starts_stage(run: RunFolder, store: ParticleStore, config: AbinitConfig) -> Starts:
    """Random starts, more of them while no two agree; each is kept as soon as it is done."""
    begin = perf_counter()
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(store), generator=generator)
    held = order[-min(HELD_OUT, len(store) // 5) :].sort().values
    left = order[: len(order) - len(held)]
    plan = StartPlan(images=min(config.start_images, len(left)), last_band=min(config.start_band, store.box // 2 - 1))
    plan = replace(plan, first_band=min(plan.first_band, plan.last_band))
    shift_pixel = config.shift_range * store.box
    done = _load_starts(run)
    with progress("random starts", plan.iterations * config.starts) as advance:
        for number in range(0 if done is None else len(done.maps), 2 * config.starts):
            if done is not None and number >= config.starts and (config.starts == 1 or done.agreeing() > 1):
                break

            def report(iteration: int, state: Start, moments: Moments, number: int = number) -> None:
                nats, certain = float(moments.log_likelihood.mean()), float(moments.certain.mean())
                run.record(
                    stage="start", start=number, step=iteration, band=state.band, log_likelihood=nats, certain=certain
                )
                advance(1, f"random start {number + 1}, band {state.band}")

            drawn = torch.randperm(len(left), generator=torch.Generator().manual_seed(config.seed + number))
            subset = left[drawn[: plan.images]].sort().values
            seed = config.seed * 1000 + number
            start = random_start(store, subset, plan, shift_pixel=shift_pixel, seed=seed, report=report)
            nats = held_out_likelihood(store, held, start, level=plan.level, shift_pixel=shift_pixel, seed=config.seed)
            one = Starts(start.map[None], start.noise[None], torch.tensor([nats]))
            done = one if done is None else _joined(done, one)
            _keep_map(run, f"start-{number + 1}", start.map, store)
            run.record(stage="start-done", start=number, log_likelihood=nats, seconds=perf_counter() - begin)
            save_tensors(run.path / STARTS, {"maps": done.maps, "noise": done.noise, "likelihood": done.likelihood})
            run.log(f"random start {number + 1}: {nats:.2f} nats an image on images held out")
    if done is None:
        raise ValueError("no starts")
    shared = done.shared()
    agreeing, shares = done.agreeing(), " ".join(f"{share:.2f}" for share in shared)
    run.record(
        stage="starts", best=done.best, agreeing=agreeing, shared=shared, log_likelihood=done.likelihood.tolist()
    )
    run.log(
        f"starts: number {done.best + 1} of {len(shared)} goes on, {agreeing} came to its structure (share of the band "
        f"with FSC above {SAME_FSC}: {shares}); {perf_counter() - begin:.1f} s"
    )
    if len(shared) > 1 and agreeing == 1:
        run.warn("no two random starts came to one structure: do not trust the map before another run confirms it")
    return done


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

    Args:
        agreed: the last shell to which half maps, or the start, can be trusted.
    """
    count = Counter(step.kind for step in done)
    widest = min(config.search_band, box // 2 - 1)
    band = max(FIRST_BAND, min(widest, agreed))
    if not any(step.whole for step in done):
        wide = count["search"] > 0 and band >= widest  # the first search knows nothing but a random start
        return Step("search", band, wide or count["search"] + 1 >= config.search_rounds)
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

            if step.kind == "refine" and before is not None:
                found = polish_round(store, before, band=step.band, device=device, advance=advance)
            else:
                first = starts.maps[starts.best].repeat(2, 1, 1, 1)
                maps, noise = (first, starts.noise[starts.best]) if before is None else (before.halves(), before.noise)
                found = search_round(
                    store,
                    maps[:, None],
                    replace(usual_plan(store.box, step.band), shift_pixel=config.shift_range * store.box),
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


def _keep_round(
    run: RunFolder, store: ParticleStore, found: Poses, done: Sequence[Step], *, before: Poses | None, seconds: float
) -> None:
    """What a round leaves: poses to go on from, a map to look at, a line for the user."""
    step, number, fsc = done[-1], len(done), found.result.fsc
    _keep_map(run, f"round-{number}", found.result.map, store)
    view = projection_classes(found.pose.rotation[found.subset], VIEWS)
    run.save_array(f"abinit/views-{number}.npy", torch.bincount(view, minlength=VIEWS).numpy())
    moved: dict[str, float] = {}
    if before is not None:
        both = found.subset[torch.isin(found.subset, before.subset)]
        turned = rotation_distance_deg(found.pose.rotation[both], before.pose.rotation[both])
        away = torch.linalg.vector_norm(found.pose.shift_A[both] - before.pose.shift_A[both], dim=1)
        moved = {"turned_deg": float(turned.median()), "moved_A": float(away.median())}
    run.record(
        stage=step.kind,
        step=number,
        band=step.band,
        images=len(found.subset),
        agreed=found.agreed,
        resolution_A=fsc.resolution_0143_A,
        seconds=seconds,
        **moved,
    )
    change = f"; poses moved by {moved['turned_deg']:.2f} degrees, {moved['moved_A']:.2f} A (medians)" if moved else ""
    run.log(
        f"{step.kind} {number}: {len(found.subset)} images to band {step.band}; half maps agree to "
        f"{fsc.resolution_0143_A:.2f} A{change}; {seconds:.1f} s"
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


def _load_starts(run: RunFolder) -> Starts | None:
    path = run.path / STARTS
    if not path.is_file():
        return None
    kept = load_tensors(path)[0]
    run.log(f"resumed after random start {len(kept['maps'])}")
    return Starts(kept["maps"], kept["noise"], kept["likelihood"])


def _joined(a: Starts, b: Starts) -> Starts:
    return Starts(*(torch.cat([getattr(a, field.name), getattr(b, field.name)]) for field in fields(Starts)))


def _keep_map(run: RunFolder, name: str, map: Float32[Tensor, "z y x"], store: ParticleStore) -> None:
    """A map of a stage, in the working box, for the report and for the user to look at."""
    folder = run.path / "abinit"
    folder.mkdir(exist_ok=True)
    write_map(folder / f"{name}.mrc", rebox(map, store.box).numpy(), store.pixel_A)


def _finish(run: RunFolder, store: ParticleStore, found: Poses, config: AbinitConfig) -> None:
    """Poses, consensus and model; the model last."""
    run.save_pose(found.pose)
    manifest = store.manifest
    source, target = store.folder / manifest.metadata, run.path / manifest.metadata
    rewrite_poses(source, target, found.pose, pixel_A=manifest.source_pixel_A)
    posed = store.with_pose(found.pose)
    consensus = consensus_stage(run, posed)
    if not config.zdim:
        run.save_latent(torch.zeros(len(store), 0), torch.zeros(len(store), 0))
        run.save_model(LinearSubspace(consensus.map[None]), {})
        return
    asked = LinearConfig(config.particles, config.output, zdim=config.zdim, seed=config.seed)
    fit = linear_stage(run, posed, consensus, config=asked)
    run.save_latent(fit.latent_mean, fit.latent_std)
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
        },
        {
            "zdim": (config.zdim, 20),
            "shift-range": (config.shift_range, 0.25),
            "starts": (config.starts, 50),
            "start-band": (config.start_band, WIDEST_START),
        },
    )
    choose_device(config.device)
    check_paths(config)
