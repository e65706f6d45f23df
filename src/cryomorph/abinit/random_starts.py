"""Initial models of `abinit` from several random starts: which one is refined, and how many agree with it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from time import perf_counter

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.abinit.initial_model import (
    MIN_INFORMATIVE_NATS,
    InitialModel,
    InitialModelPlan,
    Moments,
    held_out_log_likelihood,
    make_initial_model,
)
from cryomorph.abinit.record import write_stage_map
from cryomorph.config.abinit import AbinitConfig
from cryomorph.config.console import progress
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.align import align_maps
from cryomorph.volumes.fsc import fsc

HELD_OUT = 300  # images by which the starts are compared
SAME_FSC, SAME_SHARE = 0.5, 0.8  # two starts agree if their FSC is above 0.5 up to 0.8 of the radius
STARTS = "checkpoints/starts.safetensors"


@dataclass(frozen=True)
class RandomStarts:
    """Finished random starts: maps and noise of each, and its held-out log-likelihood in nats per image.

    The maps of a start are the mean, then the components.
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
        """How far each start agrees with the best, aligned in its better hand: the share of shells with FSC > 0.5."""
        shares = []
        for number, map in enumerate(self.maps[:, 0]):
            if number == self.best:
                shares.append(1.0)
                continue
            best = self.maps[self.best, 0]
            curve = fsc(align_maps(map, best).aligned, best)[1:]
            below = (curve < SAME_FSC).nonzero()
            shares.append((int(below[0]) if len(below) else len(curve)) / len(curve))
        return shares

    @property
    def agreeing(self) -> int:
        """How many starts, including the best, have the structure of the best."""
        return sum(share >= SAME_SHARE for share in self.shared)


def random_starts_stage(run: RunFolder, store: ParticleStore, config: AbinitConfig) -> RandomStarts:
    """Make an initial model from each random start, and more while no two agree; each is saved when it is finished."""
    begin = perf_counter()
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(store), generator=generator)
    held = order[-min(HELD_OUT, len(store) // 5) :].sort().values
    left = order[: len(order) - len(held)]
    last = min(config.start_radius, store.box // 2 - 1)
    plan = InitialModelPlan(images=min(config.start_images, len(left)), last_radius=last)
    plan = replace(plan, first_radius=min(plan.first_radius, plan.last_radius), zdim=config.zdim)
    shift_pixel = config.shift_range * store.box
    done = _load_starts(run)
    with progress("random starts", plan.iterations * config.starts) as advance:
        for number in range(0 if done is None else len(done.maps), 2 * config.starts):
            if done is not None and number >= config.starts and (config.starts == 1 or done.agreeing > 1):
                break

            def report(iteration: int, model: InitialModel, moments: Moments, number: int = number) -> None:
                nats, certain = float(moments.log_likelihood.mean()), float(moments.certain.mean())
                run.record(
                    stage="start", start=number, step=iteration, band=model.radius, log_likelihood=nats, certain=certain
                )
                advance(1, f"random start {number + 1}, radius {model.radius}")

            drawn = torch.randperm(len(left), generator=torch.Generator().manual_seed(config.seed + number))
            subset = left[drawn[: plan.images]].sort().values
            seed = config.seed * 1000 + number
            model = make_initial_model(store, subset, plan, shift_pixel=shift_pixel, seed=seed, report=report)
            nats = held_out_log_likelihood(
                store, held, model, level=plan.level, shift_pixel=shift_pixel, seed=config.seed
            )
            one = RandomStarts(model.maps[None], model.noise[None], torch.tensor([nats]))
            done = one if done is None else _joined(done, one)
            write_stage_map(run, f"start-{number + 1}", model.maps[0], store=store)
            run.record(stage="start-done", start=number, log_likelihood=nats, seconds=perf_counter() - begin)
            save_tensors(run.path / STARTS, {"maps": done.maps, "noise": done.noise, "likelihood": done.likelihood})
            run.log(f"random start {number + 1}: log-likelihood {nats:,.2f} nats per held-out image")
    if done is None:
        raise ValueError("expected at least one random start")
    _report(run, done, seconds=perf_counter() - begin)
    return done


def _report(run: RunFolder, done: RandomStarts, *, seconds: float) -> None:
    """Record which start is refined and how many agree; warn if the maps cannot be trusted."""
    shared, agreeing = done.shared, done.agreeing
    run.record(
        stage="starts", best=done.best, agreeing=agreeing, shared=shared, log_likelihood=done.likelihood.tolist()
    )
    run.log(
        f"random starts: {agreeing} of {len(shared)} agree, number {done.best + 1} is refined (share of shells with "
        f"FSC above {SAME_FSC} against it: {' '.join(f'{share:.2f}' for share in shared)}); {seconds:.1f} s"
    )
    if float(done.likelihood.max()) < MIN_INFORMATIVE_NATS:
        run.warn("the best random start explains held-out images no better than noise does: there is no map to trust")
    elif len(shared) > 1 and agreeing == 1:
        run.warn("no two random starts agree: do not trust the map before another run confirms it")


def _load_starts(run: RunFolder) -> RandomStarts | None:
    """Starts that an interrupted run has finished."""
    path = run.path / STARTS
    if not path.is_file():
        return None
    kept = load_tensors(path)[0]
    run.log(f"resumed after random start {len(kept['maps'])}")
    return RandomStarts(kept["maps"], kept["noise"], kept["likelihood"])


def _joined(a: RandomStarts, b: RandomStarts) -> RandomStarts:
    parts = (torch.cat([getattr(a, field.name), getattr(b, field.name)]) for field in fields(RandomStarts))
    return RandomStarts(*parts)
