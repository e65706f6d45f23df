"""One model being fitted to one store, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from cryomorph.compute.batch_threads import BatchThreads
from cryomorph.compute.distributed import Parallel
from cryomorph.config.training import ResolvedTraining
from cryomorph.encoders.table import TableEncoder
from cryomorph.latents.encode import encode_amortised
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.objectives.disentangle import MemoryBank
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import Batch, ParticleStore
from cryomorph.physics.disk import FourierDisk
from cryomorph.training.batches import TrainingBatches, split_held_out
from cryomorph.training.evaluation import flat, held_out_loss
from cryomorph.training.gradient_monitor import LastValidState
from cryomorph.training.progress import Progress
from cryomorph.training.schedule import TrainingSchedule
from cryomorph.training.step import LossSums, TrainingStep

Facts = dict[str, Any]


class Trainer:
    """A model, its particles and a plan, and how far their training is.

    Args:
        threads: share the images of a batch.
        projection_class: (n,) class of each particle's viewing direction, for the disentanglement prior.
    """

    def __init__(
        self,
        model: Heterogeneous,
        store: ParticleStore,
        plan: ResolvedTraining,
        *,
        parallel: Parallel,
        seed: int,
        threads: BatchThreads | None = None,
        projection_class: Int64[Tensor, " n"] | None = None,
    ) -> None:
        self.model, self.store, self.plan, self.parallel, self.threads = model, store, plan, parallel, threads
        held_out, trained = split_held_out(len(store), plan.held_out, seed, copies=store.copies)
        self.trained = parallel.shard(trained)
        self.batch_size = max(1, plan.batch_size // parallel.world_size)
        self.held_out = ParticleLoader(store, self.batch_size, subset=parallel.shard(held_out))
        self.bank: MemoryBank | None = None
        if projection_class is not None:
            self.bank = MemoryBank(projection_class, model.representation.zdim, visited=trained).to(parallel.device)
        self._batches = TrainingBatches(store, self.trained, self.batch_size, seed, projection_class)
        self.steps = parallel.all_reduce_max(max(1, len(self._batches)))
        self.progress = Progress()
        self.schedule = TrainingSchedule(plan, self.steps, store.box)
        self.stepper = TrainingStep(model, self.schedule, parallel=parallel, seed=seed, threads=threads, bank=self.bank)
        self.optimiser, self.monitor = self.stepper.optimiser, self.stepper.monitor
        self.sums: LossSums | None = None
        self.last_report: Facts = {}
        self.last_valid = LastValidState(model, self.optimiser)

    @property
    def table(self) -> TableEncoder | None:
        """The encoder, if it is a table."""
        return self.model.encoder if isinstance(self.model.encoder, TableEncoder) else None

    @property
    def epochs(self) -> int:
        """Maximum number of epochs."""
        return self.plan.epochs

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.progress.stopped or self.progress.epoch >= self.epochs

    @property
    def best(self) -> bool:
        """Whether the held-out loss of the last epoch is the lowest so far."""
        return 0 < self.progress.epoch == self.progress.best

    @property
    def disk(self) -> FourierDisk:
        """The coefficients that are compared in this epoch."""
        return self.store.disk.within(self.schedule.radius(self.progress))

    @property
    def read_disk(self) -> FourierDisk:
        """The coefficients that are read: an encoder network sees all of them, whatever is compared."""
        amortised = self.model.encoder is not None and self.table is None
        return self.store.disk if amortised else self.disk

    def begin(self) -> None:
        """Fill the memory bank by one pass over all particles, unless it comes from a checkpoint."""
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

    def batches(self) -> Iterator[Batch]:
        """The remaining batches of this epoch."""
        return self._batches.rest_of_epoch(self.progress, steps=self.steps, radius=self.read_disk.max_radius)

    def upcoming(self, steps: int) -> Int64[Tensor, " k"]:
        """The particles of the next steps of this epoch."""
        return self._batches.upcoming(self.progress, steps)

    def step(self, batch: Batch, disk: FourierDisk) -> None:
        """One step on one batch, comparing the coefficients of `disk`."""
        sums = self.stepper.take(batch, self.progress, read=self.read_disk, compared=disk)
        self.sums = sums if self.sums is None else self.sums.plus(sums)
        self.progress.step += 1

    def report(self) -> Facts:
        """Losses since the last report, per image or coefficient; a model with non-finite weights is restored."""
        steps, skipped, images = self.monitor.flush()
        sums, self.sums = self.sums, None
        facts: Facts = {"epoch": self.progress.epoch + 1, "step": self.progress.step, "band": self.disk.max_radius}
        if sums is not None:
            count = max(sums.images - len(images), 1)
            facts |= {"nll": float(sums.nll) / count, "kl": (sums.kl / count).tolist(), "images": sums.images}
            roughness, prior = (sums.auxiliary_losses / count).tolist()
            facts |= {"roughness": roughness} if self.model.smoothness is not None else {}
            facts |= {"disentanglement": prior} if self.bank is not None else {}
        facts |= {"learning_rate": self.schedule.learning_rate(self.progress)}
        if skipped:
            facts |= {"skipped": skipped, "skipped_images": [float(i) for i in images]}
        # a model that became non-finite late in a report must not become the state to go back to
        lost = not torch.nn.utils.get_total_norm([weight.detach() for weight in self.optimiser.weights]).isfinite()
        if lost or 2 * skipped > steps:
            self.last_valid.restore(self.model, self.optimiser)
            self.progress.rate_factor /= 2
            facts |= {"rolled_back": 1}
        else:
            self.last_valid = LastValidState(self.model, self.optimiser)
        self.last_report = facts
        return facts

    def held_out_loss(self) -> float:
        """Loss per coefficient of the particles that the weights never saw; nan without any."""
        weights, parallel, threads = self.optimiser.weights, self.parallel, self.threads
        return held_out_loss(self.model, self.held_out, self.plan, weights=weights, parallel=parallel, threads=threads)

    def finish_epoch(self) -> Facts:
        """Close an epoch: its held-out loss, and whether training should stop."""
        loss, now = self.held_out_loss(), self.progress
        full_band = self.schedule.full_band(now)
        now.epoch, now.step = now.epoch + 1, 0
        if full_band and math.isfinite(loss):
            if loss < min(now.held_out, default=math.inf):
                now.best = now.epoch
            now.held_out.append(loss)
        now.stopped = bool(self.plan.patience) and flat(now.held_out, self.plan.patience)
        return {"epoch": now.epoch, "held_out": loss}
