"""Rates, weights and band limit of a training, as functions of its progress."""

from __future__ import annotations

from dataclasses import dataclass

from cryomorph.config.training import ResolvedTraining
from cryomorph.objectives.schedules import grown_radius, scheduled
from cryomorph.training.progress import Progress

RAMP = 50  # steps over which the learning rate rises from zero
LAST_LATENT_RATE = 0.3  # of the rate of latent points, at the end
DECAY = 0.95  # of the learning rate per epoch, as in OPUS-DSD


@dataclass(frozen=True)
class TrainingSchedule:
    """The schedule of a training of `steps` steps per epoch on images of `box` pixels."""

    plan: ResolvedTraining
    steps: int
    box: int

    def completed(self, now: Progress) -> float:
        """Completed fraction of the training, 0 to 1."""
        return (now.epoch + now.step / self.steps) / max(self.plan.epochs, 1)

    def radius(self, now: Progress) -> int:
        """Band limit in Fourier pixels; it grows from epoch to epoch."""
        nyquist = self.box / 2
        first, share = min(self.plan.first_radius, nyquist), self.plan.radius_share
        return round(grown_radius(now.epoch / max(self.plan.epochs, 1), first=first, last=nyquist, share=share))

    def full_band(self, now: Progress) -> bool:
        """Whether the band limit of this epoch is Nyquist."""
        return now.epoch / max(self.plan.epochs, 1) >= self.plan.radius_share

    def relative_rate(self, now: Progress) -> float:
        """Learning rate as a fraction of its peak."""
        ramp = min(1.0, (now.epoch * self.steps + now.step + 1) / RAMP)
        schedule = self.plan.rate_schedule
        if schedule == "decay":
            fall = DECAY**now.epoch
        else:
            fall = 1.0 if schedule == "constant" else scheduled(schedule, self.completed(now), first=1.0, last=0.0)
        return ramp * fall * now.rate_factor

    def learning_rate(self, now: Progress) -> float:
        """Learning rate of Adam."""
        return self.plan.learning_rate * self.relative_rate(now)

    def latent_rate(self, now: Progress) -> float:
        """Fraction of a full step that the latent points in a table take."""
        return self.plan.latent_rate * (LAST_LATENT_RATE + (1 - LAST_LATENT_RATE) * min(1.0, self.relative_rate(now)))

    def kl_weight(self, now: Progress) -> float:
        """Weight of the KL divergence: half of the papers' beta (docs/methods.md, "Likelihood")."""
        return self.plan.beta / 2 * self.regularisation_factor(now)

    def prior_weight(self, now: Progress) -> float:
        """Weight of the disentanglement prior in nats; it follows the schedule of the KL divergence."""
        return self.plan.prior_weight * self.regularisation_factor(now)

    def regularisation_factor(self, now: Progress) -> float:
        """Factor of both weights, 0 to 1."""
        return scheduled(self.plan.beta_schedule, self.completed(now))
