"""Distillation: a model learns the maps of a linear subspace, without noise, before it sees an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Complex64, Float32
from torch import Tensor

from cryomorph.compute.batch_threads import BatchThreads, Rowwise, apply_in_threads
from cryomorph.objectives.schedules import scheduled
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.pose import random_rotations
from cryomorph.representations.base import Representation
from cryomorph.representations.linear import LinearSubspace
from cryomorph.training.optimise import Optimisers

LEARNING_RATE = 4e-3
SAMPLE = 1000  # particles that the average CTF is taken over
RAMP = 20
LAST_RATE = 0.1


@dataclass(frozen=True)
class DistillationTargets:
    """Latent points at which a student learns a teacher's maps.

    `point` (n, zdim) in the student's latent space and `teacher_point` (n, q) in the teacher's belong to one particle.
    Noise of standard deviation `spread` (n, zdim) is added to `point`, and to `teacher_point` if both are in the
    `same_space`.
    """

    point: Float32[Tensor, "n zdim"]
    spread: Float32[Tensor, "n zdim"]
    teacher_point: Float32[Tensor, "n q"]
    same_space: bool

    @classmethod
    def standard_normal(cls, n: int, zdim: int) -> DistillationTargets:
        """Nothing is known of the particles but a standard normal prior."""
        return cls(torch.zeros(n, zdim), torch.ones(n, zdim), torch.zeros(n, zdim), same_space=True)

    @property
    def prior_std(self) -> Float32[Tensor, " zdim"]:
        """Standard deviation of each coordinate over the particles, their spread included."""
        variance = (self.point - self.point.mean(0)).square() + self.spread.square()
        return variance.mean(0).sqrt()


def rms_transfer(store: ParticleStore, whitening: Float32[Tensor, " size"], *, seed: int) -> Float32[Tensor, " size"]:
    """Root mean square over particles of the factor from a slice to a whitened image."""
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(len(store), generator=generator)[:SAMPLE].sort().values
    return (store.transfer(sample) * whitening.cpu()).square().mean(0).sqrt()


def distil(
    student: Representation,
    teacher: LinearSubspace,
    targets: DistillationTargets,
    *,
    transfer: Float32[Tensor, " size"],
    disk: FourierDisk,
    steps: int,
    batch_size: int,
    seed: int,
    half_precision: bool,
    after_step: Callable[[int, float], None],
    threads: BatchThreads | None = None,
) -> float:
    """Fit slices of the student to the teacher's, in random orientations, weighted as in an average image.

    Args:
        transfer: of a whole disk, of which `disk` is a prefix.
        after_step: called with the step and the share of the teacher's power that the student does not yet reproduce.
        threads: share the work.

    Returns:
        that share in the end.
    """
    device, transfer = transfer.device, transfer[: disk.size]
    generator = torch.Generator().manual_seed(seed)
    optimiser = Optimisers(student, "muon")
    missing = 1.0
    for step in range(steps):
        rate = min(1.0, (step + 1) / RAMP) * scheduled("cosine", step / steps, first=1.0, last=LAST_RATE)
        rows = torch.randint(len(targets.point), (batch_size,), generator=generator)
        noise = targets.spread[rows] * torch.randn(batch_size, targets.spread.shape[1], generator=generator)
        z, teacher_z = targets.point[rows] + noise, targets.teacher_point[rows]
        if targets.same_space:
            teacher_z = teacher_z + noise
        rotation = random_rotations(batch_size, generator).to(device)
        with torch.no_grad():
            target = apply_in_threads(
                threads, seen_slices(teacher, rotation, disk, transfer=transfer), teacher_z.to(device), weights=()
            )
        with torch.autocast(device.type, torch.bfloat16, enabled=half_precision):
            output = apply_in_threads(
                threads,
                seen_slices(student, rotation, disk, transfer=transfer),
                z.to(device),
                weights=optimiser.weights,
            )
        error = torch.view_as_real(output - target).square().sum()
        optimiser.zero_grad()
        (error / target.numel()).backward()
        optimiser.step(LEARNING_RATE * rate, threads=threads)
        if step % 10 == 0 or step == steps - 1:
            share = float(error.detach() / torch.view_as_real(target).square().sum())
            missing = share if step == 0 else 0.7 * missing + 0.3 * share
        after_step(step, missing)
    return missing


def seen_slices(
    model: Representation, rotation: Float32[Tensor, "b 3 3"], disk: FourierDisk, *, transfer: Float32[Tensor, " m"]
) -> Rowwise:
    """Slices as an average image shows them, as a function of rows of a batch and their latent points."""

    def slices(rows: slice, z: Float32[Tensor, "k q"]) -> Complex64[Tensor, "k m"]:
        return model.slices(z, rotation[rows], disk) * transfer

    return slices
