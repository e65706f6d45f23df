"""Random starts of `abinit`: several first maps, which of them goes on, and how many came to the same structure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from time import perf_counter

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.abinit.initial_model import FAINT, Moments, Start, StartPlan, held_out_likelihood, random_start
from cryomorph.abinit.record import keep_map
from cryomorph.config.abinit import AbinitConfig
from cryomorph.config.console import progress
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.align import align_maps
from cryomorph.volumes.fsc import fsc

HELD_OUT = 300  # images that starts are judged by
SAME_FSC, SAME_BAND = 0.5, 0.8  # two starts are the same structure where their FSC is above one in the other's share
STARTS = "checkpoints/starts.safetensors"


@dataclass(frozen=True)
class Starts:
    """Random starts that are done: maps and noise of each, and the held-out log-likelihood in nats an image.

    The maps of a start are the mean, then the components.

    `shared` is how far each agrees with the best, once laid upon it in its better hand: the share of the band to which
    their FSC stays above 0.5.
    """

    maps: Float32[Tensor, "s c z y x"]
    noise: Float32[Tensor, "s shells"]
    likelihood: Float32[Tensor, " s"]

    @property
    def best(self) -> int:
        """The start that explains held-out images best."""
        return int(self.likelihood.argmax())

    @cached_property
    def shared(self) -> list[float]:
        """How far each start and the best are one structure: 1 to the end of the band."""
        found = []
        for number, map in enumerate(self.maps[:, 0]):
            if number == self.best:
                found.append(1.0)
                continue
            best = self.maps[self.best, 0]
            curve = fsc(align_maps(map, best).aligned, best)[1:]
            below = (curve < SAME_FSC).nonzero()
            found.append((int(below[0]) if len(below) else len(curve)) / len(curve))
        return found

    @property
    def agreeing(self) -> int:
        """How many starts, the best among them, came to the best one's structure."""
        return sum(share >= SAME_BAND for share in self.shared)


def starts_stage(run: RunFolder, store: ParticleStore, config: AbinitConfig) -> Starts:
    """Random starts, more of them while no two agree; each is kept as soon as it is done."""
    begin = perf_counter()
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(store), generator=generator)
    held = order[-min(HELD_OUT, len(store) // 5) :].sort().values
    left = order[: len(order) - len(held)]
    plan = StartPlan(images=min(config.start_images, len(left)), last_band=min(config.start_band, store.box // 2 - 1))
    plan = replace(plan, first_band=min(plan.first_band, plan.last_band), zdim=config.zdim)
    shift_pixel = config.shift_range * store.box
    done = _load_starts(run)
    with progress("random starts", plan.iterations * config.starts) as advance:
        for number in range(0 if done is None else len(done.maps), 2 * config.starts):
            if done is not None and number >= config.starts and (config.starts == 1 or done.agreeing > 1):
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
            one = Starts(start.maps[None], start.noise[None], torch.tensor([nats]))
            done = one if done is None else _joined(done, one)
            keep_map(run, f"start-{number + 1}", start.maps[0], store=store)
            run.record(stage="start-done", start=number, log_likelihood=nats, seconds=perf_counter() - begin)
            save_tensors(run.path / STARTS, {"maps": done.maps, "noise": done.noise, "likelihood": done.likelihood})
            run.log(f"random start {number + 1}: {nats:,.2f} nats an image on images held out")
    if done is None:
        raise ValueError("no starts")
    shared = done.shared
    agreeing, shares = done.agreeing, " ".join(f"{share:.2f}" for share in shared)
    run.record(
        stage="starts", best=done.best, agreeing=agreeing, shared=shared, log_likelihood=done.likelihood.tolist()
    )
    run.log(
        f"starts: number {done.best + 1} of {len(shared)} goes on, {agreeing} came to its structure (share of the band "
        f"with FSC above {SAME_FSC}: {shares}); {perf_counter() - begin:.1f} s"
    )
    if float(done.likelihood.max()) < FAINT:
        run.warn("the best random start explains images held out no better than noise does: there is no map to trust")
    elif len(shared) > 1 and agreeing == 1:
        run.warn("no two random starts came to one structure: do not trust the map before another run confirms it")
    return done


def _load_starts(run: RunFolder) -> Starts | None:
    path = run.path / STARTS
    if not path.is_file():
        return None
    kept = load_tensors(path)[0]
    run.log(f"resumed after random start {len(kept['maps'])}")
    return Starts(kept["maps"], kept["noise"], kept["likelihood"])


def _joined(a: Starts, b: Starts) -> Starts:
    return Starts(*(torch.cat([getattr(a, field.name), getattr(b, field.name)]) for field in fields(Starts)))
