"""A first map from images alone: expectation-maximisation over all poses of a grid, on few images and a low band.

Every image counts at every rotation and shift by how likely it is there, so that no pose is decided while the map is
still noise; poses become certain as the map does. Each iteration takes new images, a new turn of the grid and, now and
then, a wider band (frequency marching). The noise of each shell is what the map leaves of the images, the map's own
errors included: that is the annealing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex64, Float32, Int64
from torch import Tensor

from cryomorph.inference.slice_bank import SliceBank, shift_grid, shift_step
from cryomorph.particles.store import Batch, ParticleStore
from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.noise import residual_power
from cryomorph.physics.pose import Pose, random_rotations, shift_phase
from cryomorph.physics.slicing import locate_slices, padded_grid
from cryomorph.representations.linear import rebox
from cryomorph.volumes.backproject import Accumulator
from cryomorph.volumes.masks import spherical_mask

SCORES = 1 << 22  # probabilities held at once
PRIOR = 0.1  # of a shell's mean weight: what a map's Wiener filter adds to it
MARCH = 0.7  # of the iterations in which the band grows
NOISE_MEMORY = 0.5
TRUST = 0.5  # of a shell's power that counts as noise at least: images without any would decide on a hand at once


@dataclass(frozen=True)
class StartPlan:
    """How a random start is made.

    Bands are in Fourier pixels, whatever the box: they say how many details fit across it.
    """

    images: int = 2000
    batch: int = 250
    iterations: int = 60
    first_band: int = 4
    last_band: int = 10
    level: int = 1
    memory: float = 0.5
    """How much of the map before is kept in each iteration."""

    def band(self, iteration: int) -> int:
        """The band of an iteration."""
        share = min(1.0, iteration / (MARCH * self.iterations))
        return round(self.first_band + share * (self.last_band - self.first_band))


@dataclass(frozen=True)
class Start:
    """Where a start stands: the map, in a box of the band's diameter, and the noise of each shell that it leaves."""

    map: Float32[Tensor, "z y x"]
    noise: Float32[Tensor, " shells"]

    @property
    def band(self) -> int:
        """Band of the map in Fourier pixels."""
        return int(self.map.shape[-1]) // 2


@dataclass(frozen=True)
class Moments:
    """What images add to each slice of a bank: `sum_i p_i C X_t` and `sum_i p_i C^2` (h, m), by their probabilities.

    `log_likelihood` (b,) is `log mean exp` over all poses, less that of an image of noise alone; `certain` (b,) the
    highest probability of a single pose; `model` (b, m) the slice times CTF of that pose, as the image shows it.
    """

    image: Complex64[Tensor, "h m"]
    weight: Float32[Tensor, "h m"]
    log_likelihood: Float32[Tensor, " b"]
    certain: Float32[Tensor, " b"]
    model: Complex64[Tensor, "b m"]


def unposed(store: ParticleStore) -> ParticleStore:
    """The same particles as if nothing were known of their poses: as they lie in their images."""
    return store.with_pose(Pose(torch.eye(3).repeat(len(store), 1, 1), torch.zeros(len(store), 2)))


@torch.no_grad()
def expectation(batch: Batch, bank: SliceBank, *, disk: FourierDisk, shifts: Float32[Tensor, "t 2"]) -> Moments:
    """How likely each image is at each rotation of a bank of one map and at each shift, and the sums that this makes.

    Args:
        batch: images as they lie, whitened, of the disk's coefficients.
    """
    phase = shift_phase(disk.frequency.to(batch.ctf) / disk.box, shifts.to(batch.ctf))
    columns = 2 * len(bank.slices)
    image = bank.slices.new_zeros(bank.slices.shape)
    weight = bank.slices.real.new_zeros(bank.slices.shape)
    likelihood, certain, model = [], [], []
    for part in batch.split(max(1, SCORES // (len(shifts) * columns))):
        moved = (part.ctf * part.image)[:, None] * phase
        overlap, power = bank.products(moved, part.ctf.square())
        score = overlap.mul_(2).sub_(power).flatten(1)
        total = torch.logsumexp(score, 1)
        best, at = score.max(1)
        likelihood.append(total - torch.log(torch.tensor(float(score.shape[1]))))
        certain.append((best - total).exp())
        slices = bank.at(*bank.numbers(at % columns))
        model.append(slices * part.ctf * phase[at // columns].conj())
        share = score.sub_(total[:, None]).exp_().unflatten(1, (len(shifts), 2, -1))
        # an image turned by 180 degrees adds its conjugate
        flat = moved.flatten(0, 1)
        both, apart = (share[:, :, 0] + share[:, :, 1]).flatten(0, 1), (share[:, :, 0] - share[:, :, 1]).flatten(0, 1)
        image += torch.complex(both.mT @ flat.real, apart.mT @ flat.imag)
        weight += both.unflatten(0, (len(part), -1)).sum(1).mT @ part.ctf.square()
    return Moments(image, weight, torch.cat(likelihood), torch.cat(certain), torch.cat(model))


def random_start(
    store: ParticleStore,
    subset: Int64[Tensor, " k"],
    plan: StartPlan,
    *,
    shift_pixel: float,
    seed: int,
    report: Callable[[int, Start, Moments], None],
) -> Start:
    """A map from images whose poses are not known, from a random beginning that the seed chooses.

    Args:
        store: see `unposed`.
        subset: the particles to draw from, ascending.
        shift_pixel: how far from the image's centre a particle may lie along each axis.
        report: hears of each iteration.
    """
    generator = torch.Generator().manual_seed(seed)
    state: Start | None = None
    for iteration in range(plan.iterations):
        band = plan.band(iteration)
        disk = store.disk.within(band)
        drawn = torch.randperm(len(subset), generator=generator)[: plan.batch]
        batch = store.batch(subset[drawn].sort().values, disk.size)
        if state is None:
            state = _beginning(batch, band, disk=disk, generator=generator)
        state, moments = _iterate(batch, state, plan, disk=disk, shift_pixel=shift_pixel, generator=generator)
        report(iteration, state, moments)
    if state is None:
        raise ValueError("a start has at least one iteration")
    return state


def held_out_likelihood(
    store: ParticleStore,
    subset: Int64[Tensor, " k"],
    start: Start,
    *,
    level: int,
    shift_pixel: float,
    seed: int,
) -> float:
    """Mean log-likelihood of images that a map was not made of, over all poses of a grid, in nats an image.

    The noise is the stored one, so that starts compare.
    """
    disk = store.disk.within(start.band)
    bank = _bank(start.map, level, disk=disk, generator=torch.Generator().manual_seed(seed))
    shifts = shift_grid(shift_pixel, shift_step(disk.box, start.band))
    return float(expectation(store.batch(subset, disk.size), bank, disk=disk, shifts=shifts).log_likelihood.mean())


def _beginning(batch: Batch, band: int, *, disk: FourierDisk, generator: torch.Generator) -> Start:
    """Images back-projected at random poses: of about the right size, and nothing else."""
    sums = Accumulator.zeros(2 * band)
    sums.add(replace(batch, rotation=random_rotations(len(batch), generator)))
    folded = sums.folded()
    map = folded.solve(folded.shell_weight())[0] * _sphere(2 * band)
    return Start(map, residual_power(batch.image, torch.zeros_like(batch.image), disk)[: band + 1] / len(batch))


def _iterate(
    batch: Batch,
    state: Start,
    plan: StartPlan,
    *,
    disk: FourierDisk,
    shift_pixel: float,
    generator: torch.Generator,
) -> tuple[Start, Moments]:
    band = round(disk.band or disk.box / 2)
    before = rebox(state.map, 2 * band)
    bank = _bank(before, plan.level, disk=disk, generator=generator)
    power = residual_power(batch.image, torch.zeros_like(batch.image), disk)[: band + 1] / len(batch)
    noise = power.clone()  # of shells that are new
    noise[: len(state.noise)] = torch.minimum(state.noise, power[: len(state.noise)])
    whitening = torch.maximum(noise, TRUST * power).clamp(min=1e-12).rsqrt()[disk.shell.clamp(max=band)]
    shifts = shift_grid(shift_pixel, shift_step(disk.box, band))
    moments = expectation(batch.whitened(whitening), bank, disk=disk, shifts=shifts)
    left = residual_power(batch.image, moments.model / whitening, disk)[: band + 1] / len(batch)
    grid = padded_grid(2 * band)
    added = locate_slices(grid, disk.frequency, bank.rotation).insert(
        moments.image[..., None], moments.weight[..., None]
    )
    folded = Accumulator(grid, *added).folded()
    now = folded.solve(PRIOR * folded.shell_weight())[0] * _sphere(2 * band)
    return Start(torch.lerp(now, before, plan.memory), torch.lerp(left, noise, NOISE_MEMORY)), moments


def _bank(map: Float32[Tensor, "z y x"], level: int, *, disk: FourierDisk, generator: torch.Generator) -> SliceBank:
    grid = padded_grid(map.shape[-1])
    offset = random_rotations(1, generator)[0]
    return SliceBank.of(grid.from_volumes(map[None]), grid, disk=disk, level=level, offset=offset)


def _sphere(box: int) -> Float32[Tensor, "z y x"]:
    return spherical_mask(box, 0.8 * box / 2, 0.2 * box / 2)
