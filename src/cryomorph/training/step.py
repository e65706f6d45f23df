"""One optimisation step: loss, gradients, optimisers, latent points; nothing is read back from the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from cryomorph.compute.batch_threads import BatchThreads
from cryomorph.compute.distributed import Parallel
from cryomorph.encoders.conv import Variation
from cryomorph.encoders.table import TableEncoder
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.objectives.disentangle import MemoryBank
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import FourierDisk
from cryomorph.training.gradient_monitor import GradientMonitor
from cryomorph.training.optimise import Optimisers
from cryomorph.training.progress import Progress
from cryomorph.training.schedule import TrainingSchedule


@dataclass(frozen=True)
class LossSums:
    """Sums over `images` images, on the device: likelihood per coefficient, KL divergence per latent coordinate.

    `auxiliary_losses`: roughness of the maps and disentanglement prior, in nats.
    """

    nll: Float32[Tensor, ""]
    kl: Float32[Tensor, " zdim"]
    auxiliary_losses: Float32[Tensor, 2]
    images: int

    def plus(self, other: LossSums) -> LossSums:
        """The sum of both."""
        return LossSums(
            self.nll + other.nll,
            self.kl + other.kl,
            self.auxiliary_losses + other.auxiliary_losses,
            self.images + other.images,
        )


class TrainingStep:
    """Takes steps on a model by a schedule.

    Args:
        bank: codes of all particles, for the disentanglement prior.
        threads: share the images of a batch.
    """

    def __init__(
        self,
        model: Heterogeneous,
        schedule: TrainingSchedule,
        *,
        parallel: Parallel,
        seed: int,
        threads: BatchThreads | None,
        bank: MemoryBank | None,
    ) -> None:
        self.model, self.schedule, self.parallel, self.seed = model, schedule, parallel, seed
        self.threads, self.bank = threads, bank
        self.optimiser = Optimisers(model, schedule.plan.optimiser, parallel=parallel)
        self.wrapped = parallel.wrap(model)
        self.monitor = GradientMonitor(parallel.device)
        self.half_precision = schedule.plan.precision == "bfloat16"
        self.draws = any(isinstance(part, nn.Dropout | Variation) for part in model.modules())
        self._generator = torch.Generator(device=parallel.device)

    def take(self, batch: Batch, now: Progress, *, read: FourierDisk, compared: FourierDisk) -> LossSums:
        """One step on a batch that holds the coefficients of `read`, of which those of `compared` enter the loss."""
        index, model, schedule = batch.index, self.model, self.schedule
        batch = model.prepare_batch(batch.to(self.parallel.device), read)
        noise = self.noise(len(batch), now)
        with torch.autocast(self.parallel.device.type, torch.bfloat16, enabled=self.half_precision):
            loss = self.wrapped(batch, compared, noise, threads=self.threads)
        prior = torch.zeros_like(loss.nll)
        if self.bank is not None:
            prior = self.bank.cost(index, loss.mean, generator=self._generator)
        kl, weighted_prior = schedule.kl_weight(now) * loss.kl.sum(1), schedule.prior_weight(now) * prior
        cost = loss.nll + loss.roughness + kl + weighted_prior
        value = cost.mean() / compared.size + model.representation.penalty().to(cost)
        self.optimiser.zero_grad()
        value.backward()
        keep = 1 - self.monitor.check(self.optimiser.norm(), batch.index)
        self.optimiser.step(schedule.learning_rate(now), keep, threads=self.threads)
        if isinstance(model.encoder, TableEncoder):
            model.encoder.step(schedule.latent_rate(now), len(batch) * compared.size * keep)
        if self.bank is not None:
            self.bank.visit(batch.index, loss.mean.detach(), keep=keep)
        return LossSums(
            torch.where(keep > 0, loss.nll.detach().sum() / compared.size, 0),
            torch.where(keep > 0, loss.kl.detach().sum(0), 0),
            torch.where(keep > 0, torch.stack([loss.roughness.detach().sum(), prior.detach().sum()]), 0),
            len(batch),
        )

    def noise(self, count: int, now: Progress) -> Float32[Tensor, "b zdim"]:
        """Standard normal noise that depends only on the place in the training: a resumed one draws the same."""
        place = (now.epoch * self.schedule.steps + now.step) * self.parallel.world_size + self.parallel.rank
        self._generator.manual_seed(self.seed * 1_000_000_007 + place)
        if self.draws:
            torch.manual_seed(self.seed * 1_000_000_007 + place)
        zdim = self.model.representation.zdim
        return torch.randn(count, zdim, generator=self._generator, device=self.parallel.device)
