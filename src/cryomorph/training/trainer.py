"""One model being fitted to one store: the step, what it measures, and the state that makes a resumed run exact."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from cryomorph.compute.batch_threads import BatchThreads
from cryomorph.compute.distributed import Parallel
from cryomorph.config.training import TrainingConfig
from cryomorph.encoders.conv import Variation
from cryomorph.encoders.table import TableEncoder
from cryomorph.latents.encode import encode_amortised
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.objectives.disentangle import MemoryBank
from cryomorph.objectives.schedules import grown_band, scheduled
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import Batch, ParticleStore
from cryomorph.physics.disk import FourierDisk
from cryomorph.training.gradient_monitor import Snapshot, StepGuard
from cryomorph.training.optimise import Optimisers

HELD_OUT_MOST = 2000
HELD_OUT_LEAST = 8
FIRST_BAND = 24.0
IMAGES = 25_000
FEWEST_EPOCHS, MOST_EPOCHS = 3, 8
RAMP = 50  # steps over which the learning rate rises from zero
LAST_SHARE = 0.3  # of the rate of latent points, at the end
DECAY = 0.95  # of the rate from epoch to epoch, as OPUS-DSD has it
FLAT = 1e-4  # a held-out loss, per coefficient, that fell by less is flat

Facts = dict[str, Any]


@dataclass
class Progress:
    """How far a training is; all that a checkpoint needs beside tensors."""

    epoch: int = 0
    step: int = 0
    rate_factor: float = 1.0
    held_out: list[float] = field(default_factory=list)
    best: int = 0
    """The epoch with the least of them; 0 before any."""
    stopped: bool = False


@dataclass(frozen=True)
class Measured:
    """Sums over the images since the last report, on the device, and how many there were.

    Losses per coefficient, divergences, and, in nats, roughness of the maps and the disentanglement prior.
    """

    nll: Float32[Tensor, ""]
    kl: Float32[Tensor, " zdim"]
    beside: Float32[Tensor, 2]
    images: int

    def plus(self, other: Measured) -> Measured:
        """Both together."""
        return Measured(
            self.nll + other.nll, self.kl + other.kl, self.beside + other.beside, self.images + other.images
        )


class Trainer:
    """Fits a model to a store, by a plan whose every field is filled in."""

    def __init__(
        self,
        model: Heterogeneous,
        store: ParticleStore,
        plan: TrainingConfig,
        *,
        parallel: Parallel,
        seed: int,
        threads: BatchThreads | None = None,
        projection_class: Int64[Tensor, " n"] | None = None,
    ) -> None:
        self.model, self.store, self.plan, self.parallel, self.seed = model, store, plan, parallel, seed
        self.threads = threads
        self.optimiser = Optimisers(model, plan.optimiser or "adam", parallel=parallel)
        self.wrapped = parallel.wrap(model)
        self.guard = StepGuard(parallel.device)
        self.progress = Progress()
        self.half_precision = plan.precision == "bfloat16"
        held, trained = split_held_out(len(store), plan.held_out or 0.0, seed, copies=store.copies)
        self.held, self.trained = parallel.shard(held), parallel.shard(trained)
        self.bank: MemoryBank | None = None
        if projection_class is not None:
            zdim = model.representation.zdim
            self.bank = MemoryBank(projection_class, zdim, visited=trained).to(parallel.device)
        share = max(1, (plan.batch_size or 1) // parallel.world_size)
        self.batch_size = share
        self.steps = parallel.all_reduce_max(max(1, len(self._loader)))
        self.measured: Measured | None = None
        self.spoken: Facts = {}
        self._snapshot = Snapshot(model, self.optimiser)
        self._generator = torch.Generator(device=parallel.device)
        self.draws = any(isinstance(part, nn.Dropout | Variation) for part in model.modules())

    @property
    def table(self) -> TableEncoder | None:
        """The encoder, where it is a table that moves by itself."""
        return self.model.encoder if isinstance(self.model.encoder, TableEncoder) else None

    @property
    def epochs(self) -> int:
        """Epochs at most: what was asked for, else enough for some 25,000 images."""
        return self.plan.epochs or min(max(round(IMAGES / len(self.store)), FEWEST_EPOCHS), MOST_EPOCHS)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.progress.stopped or self.progress.epoch >= self.epochs

    @property
    def best(self) -> bool:
        """Whether the last epoch's held-out loss is the least of all so far."""
        return 0 < self.progress.epoch == self.progress.best

    @property
    def done(self) -> float:
        """How far the training is, 0 to 1."""
        return (self.progress.epoch + self.progress.step / self.steps) / max(self.epochs, 1)

    @property
    def disk(self) -> FourierDisk:
        """The coefficients that this epoch compares: the band grows from epoch to epoch."""
        full = self.store.box / 2
        radius = grown_band(
            self.progress.epoch / max(self.epochs, 1),
            first=min(self.plan.first_band or FIRST_BAND, full),
            last=full,
            share=self.plan.band_share or 0.0,
        )
        return self.store.disk.within(round(radius))

    @property
    def rate(self) -> float:
        """The learning rate now, as a share of its highest."""
        ramp = min(1.0, (self.progress.epoch * self.steps + self.progress.step + 1) / RAMP)
        schedule = self.plan.rate_schedule or "constant"
        if schedule == "decay":
            fall = DECAY**self.progress.epoch
        else:
            fall = 1.0 if schedule == "constant" else scheduled(schedule, self.done, first=1.0, last=0.0)
        return ramp * fall * self.progress.rate_factor

    @property
    def kl_weight(self) -> float:
        """Weight of the divergence beside the likelihood: half of the papers' beta (METHODS 0)."""
        return (self.plan.beta or 0.0) / 2 * self._restraint

    @property
    def prior_weight(self) -> float:
        """Weight of the disentanglement prior beside the likelihood, in nats; it follows the divergence's schedule."""
        return (self.plan.prior_weight or 0.0) * self._restraint

    @property
    def _restraint(self) -> float:
        return scheduled(self.plan.beta_schedule or "constant", self.done)

    @property
    def _loader(self) -> ParticleLoader:
        return ParticleLoader(
            self.store,
            self.batch_size,
            radius=self.read_disk.max_radius,
            subset=self.trained,
            shuffle=True,
            seed=self.seed,
            classes=None if self.bank is None else self.bank.projection_class,
        )

    def coming(self, steps: int) -> Int64[Tensor, " k"]:
        """The particles of the next steps of this epoch."""
        return torch.cat(list(self._loader.planned(self.progress.epoch)[self.progress.step :][:steps]))

    def batches(self) -> Iterator[Batch]:
        """What is left of this epoch; a process with fewer batches than another begins with them again."""
        return islice(self._visits(), self.steps - self.progress.step)

    def _visits(self) -> Iterator[Batch]:
        loader, start = self._loader, self.progress.step
        while len(loader):
            if start < len(loader):
                yield from loader.batches(self.progress.epoch, start=max(start, 0))
            start -= len(loader)

    def begin(self) -> None:
        """Fill the memory bank, by one pass over all particles, unless a checkpoint has."""
        if self.bank is None or self.progress.epoch or self.progress.step:
            return
        if self.table is not None:
            self.bank.code.copy_(self.table.mean)
            return
        self.model.eval()
        mine = self.parallel.shard(torch.arange(len(self.store)))
        self.bank.code.copy_(encode_amortised(self.model, self.store, mine)[0].nan_to_num(posinf=0.0, neginf=0.0))
        self.parallel.all_gather_rows(self.bank.code)
        self.model.train()

    @property
    def read_disk(self) -> FourierDisk:
        """The coefficients that are read: an encoder network sees all of them, whatever is compared."""
        amortised = self.model.encoder is not None and self.table is None
        return self.store.disk if amortised else self.disk

    def step(self, batch: Batch, disk: FourierDisk) -> None:
        """One step on one batch; nothing is read back from the device."""
        index = batch.index
        batch = self.model.placed(batch.to(self.parallel.device), self.read_disk)
        noise = self._noise(len(batch))
        with torch.autocast(self.parallel.device.type, torch.bfloat16, enabled=self.half_precision):
            loss = self.wrapped(batch, disk, noise, threads=self.threads)
        prior = torch.zeros_like(loss.nll)
        if self.bank is not None:
            prior = self.bank.cost(index, loss.mean, generator=self._generator)
        cost = loss.nll + loss.roughness + self.kl_weight * loss.kl.sum(1) + self.prior_weight * prior
        value = cost.mean() / disk.size + self.model.representation.penalty().to(cost)
        self.optimiser.zero_grad()
        value.backward()
        bad = self.guard.judge(self.optimiser.norm(), batch.index)
        kept = 1 - bad
        self.optimiser.step((self.plan.learning_rate or 0.0) * self.rate, kept, threads=self.threads)
        if self.table is not None:
            rate = (self.plan.latent_rate or 0.0) * (LAST_SHARE + (1 - LAST_SHARE) * min(1.0, self.rate))
            self.table.step(rate, len(batch) * disk.size * kept)
        if self.bank is not None:
            self.bank.visit(batch.index, loss.mean.detach(), keep=kept)
        now = Measured(
            torch.where(kept > 0, loss.nll.detach().sum() / disk.size, 0),
            torch.where(kept > 0, loss.kl.detach().sum(0), 0),
            torch.where(kept > 0, torch.stack([loss.roughness.detach().sum(), prior.detach().sum()]), 0),
            len(batch),
        )
        self.measured = now if self.measured is None else self.measured.plus(now)
        self.progress.step += 1

    def _noise(self, count: int) -> Float32[Tensor, "b zdim"]:
        """Noise that depends on where the training is and on nothing else, so that a resumed one draws the same."""
        place = (self.progress.epoch * self.steps + self.progress.step) * self.parallel.world_size + self.parallel.rank
        self._generator.manual_seed(self.seed * 1_000_000_007 + place)
        if self.draws:
            torch.manual_seed(self.seed * 1_000_000_007 + place)
        zdim = self.model.representation.zdim
        return torch.randn(count, zdim, generator=self._generator, device=self.parallel.device)

    def report(self) -> Facts:
        """What was measured since the last report, per image or coefficient; the model is put back if it is lost."""
        steps, skipped, images = self.guard.verdicts()
        measured, self.measured = self.measured, None
        facts: Facts = {"epoch": self.progress.epoch + 1, "step": self.progress.step, "band": self.disk.max_radius}
        if measured is not None:
            good = max(measured.images - len(images), 1)
            kl = (measured.kl / good).tolist()
            facts |= {"nll": float(measured.nll) / good, "kl": kl, "images": measured.images}
            roughness, prior = (measured.beside / good).tolist()
            facts |= {"roughness": roughness} if self.model.smoothness is not None else {}
            facts |= {"disentanglement": prior} if self.bank is not None else {}
        facts |= {"learning_rate": (self.plan.learning_rate or 0.0) * self.rate}
        if skipped:
            facts |= {"skipped": skipped, "skipped_images": [float(i) for i in images]}
        # a model that was lost late in a report must not become the state to go back to
        lost = not torch.nn.utils.get_total_norm([weight.detach() for weight in self.optimiser.weights]).isfinite()
        if lost or 2 * skipped > steps:
            self._snapshot.restore(self.model, self.optimiser)
            self.progress.rate_factor /= 2
            facts |= {"rolled_back": 1}
        else:
            self._snapshot = Snapshot(self.model, self.optimiser)
        return facts

    def held_out_loss(self) -> float:
        """Loss per coefficient, at the full band, of the particles that the weights never saw; nan without any.

        The rows of a table are moved as in a step: the particles are unknown to the weights, not to themselves.
        """
        disk = self.store.disk
        total = torch.zeros(2, device=self.parallel.device)
        self.model.eval()
        for weight in self.optimiser.weights:
            weight.requires_grad_(False)
        for batch in ParticleLoader(self.store, self.batch_size, subset=self.held):
            batch = self.model.placed(batch.to(self.parallel.device), disk)
            noise = torch.zeros(len(batch), self.model.representation.zdim, device=self.parallel.device)
            with (
                torch.set_grad_enabled(self.table is not None),
                torch.autocast(self.parallel.device.type, torch.bfloat16, enabled=self.half_precision),
            ):
                loss = self.model(batch, disk, noise, threads=self.threads)
                # at the divergence's full weight: a loss that followed its schedule would not compare between epochs
                value = loss.nll + (self.plan.beta or 0.0) / 2 * loss.kl.sum(1)
            if self.table is not None:
                value.sum().backward()
                self.table.step(self.plan.latent_rate or 0.0, 1.0)
            sound = torch.isfinite(value.detach())
            total += torch.stack([torch.where(sound, value.detach(), 0).sum() / disk.size, sound.sum()])
        for weight in self.optimiser.weights:
            weight.requires_grad_(True)
        self.model.train()
        summed, count = self.parallel.all_reduce_sum(total).tolist()
        return summed / count if count else float("nan")

    def finish_epoch(self) -> Facts:
        """Close an epoch: the held-out loss, and whether it has become flat."""
        loss = self.held_out_loss()
        state = self.progress
        grown = state.epoch / max(self.epochs, 1) >= (self.plan.band_share or 0.0)
        state.epoch, state.step = state.epoch + 1, 0
        if grown and math.isfinite(loss):
            if loss < min(state.held_out, default=math.inf):
                state.best = state.epoch
            state.held_out.append(loss)
        state.stopped = bool(self.plan.patience) and flat(state.held_out, self.plan.patience or 0)
        return {"epoch": state.epoch, "held_out": loss}

    def gather(self) -> None:
        """Bring the tables and the optimisers of all processes together."""
        self.optimiser.gather()
        for part in self.model.modules():
            if isinstance(part, nn.BatchNorm1d) and part.running_mean is not None and part.running_var is not None:
                for kept in (part.running_mean, part.running_var):
                    kept.copy_(self.parallel.all_reduce_sum(kept) / self.parallel.world_size)
        if self.table is not None:
            self.parallel.all_gather_rows(self.table.mean)
        if self.bank is not None:
            self.parallel.all_gather_rows(self.bank.code)

    def state(self) -> tuple[dict[str, Tensor], str]:
        """Tensors and facts of a checkpoint."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"optimiser.{name}": value for name, value in self.optimiser.state().items()}
        tensors |= {"guard.usual": self.guard.usual, "guard.seen": self.guard.seen}
        if self.bank is not None:
            tensors["bank"] = self.bank.code
        return tensors, json.dumps(vars(self.progress))

    def restore(self, tensors: dict[str, Tensor], facts: str) -> None:
        """Go back to a checkpoint."""
        tensors = {name: value.to(self.parallel.device) for name, value in tensors.items()}
        self.model.load_state_dict(_below(tensors, "model."))
        self.optimiser.restore(_below(tensors, "optimiser."))
        self.guard.usual, self.guard.seen = tensors["guard.usual"], tensors["guard.seen"]
        if self.bank is not None:
            self.bank.code.copy_(tensors["bank"])
        self.progress = Progress(**json.loads(facts))
        self._snapshot = Snapshot(self.model, self.optimiser)


def split_held_out(
    n: int, share: float, seed: int, *, copies: int = 1
) -> tuple[Int64[Tensor, " h"], Int64[Tensor, " t"]]:
    """Particles to hold out and to train on, both ascending; none is held out of a very small set.

    Neighbouring particles that are `copies` of one image under a symmetry stay together.
    """
    images = n // copies
    count = min(round(share * images), HELD_OUT_MOST)
    if count < HELD_OUT_LEAST:
        return torch.empty(0, dtype=torch.int64), torch.arange(n)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    order = order[:, None] * copies + torch.arange(copies)
    return order[:count].flatten().sort().values, order[count:].flatten().sort().values


def flat(losses: list[float], patience: int) -> bool:
    """Whether the last `patience` losses brought no improvement on the best before them."""
    return len(losses) > patience and min(losses[-patience:]) > min(losses[:-patience]) - FLAT


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
