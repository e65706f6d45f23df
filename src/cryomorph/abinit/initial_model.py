"""A first map from images alone: expectation-maximisation over all poses of a grid, on few images and a low band.

Every image counts at every rotation and shift by how likely it is there, so that no pose is decided while the map is
still noise; poses become certain as the map does. Each iteration takes new images, a new turn of the grid and, now and
then, a wider band (frequency marching). The noise of each shell is what the map leaves of the images, the map's own
errors included: that is the annealing. Where particles move, components of a linear subspace are found along with the
mean: each pose counts with its own posterior of the latent point (METHODS 2), so that all images share one frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex64, Float32, Int64
from torch import Tensor

from cryomorph.latents.ppca import m_step
from cryomorph.particles.store import Batch, ParticleStore
from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.noise import residual_power
from cryomorph.physics.pose import Pose, random_rotations, shift_phase
from cryomorph.physics.slicing import locate_slices, padded_grid
from cryomorph.poses.evidence import Evidence
from cryomorph.poses.slice_bank import SliceBank, shift_grid, shift_step
from cryomorph.representations.linear import rebox
from cryomorph.volumes.backproject import Accumulator
from cryomorph.volumes.masks import spherical_mask

SCORES = 1 << 22  # probabilities held at once
PRIOR = 0.1  # of a shell's mean weight: what a map's Wiener filter adds to it
MARCH = 0.7  # of the iterations in which the band grows
NOISE_MEMORY = 0.5
TRUST = 0.5  # of a shell's power that counts as noise at least: images without any would decide on a hand at once
FAINT = 0.5  # nats an image on images held out, below which a map explains nothing: one of pure noise has 0.01
COMPONENT_AMPLITUDE = 0.3  # of the components that a start begins with, against the mean's
COMPONENT_PRIOR = 10.0  # times the Wiener filter of the mean


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
    zdim: int = 0
    """Components of a linear subspace that are found along with the map."""

    def band(self, iteration: int) -> int:
        """The band of an iteration."""
        share = min(1.0, iteration / (MARCH * self.iterations))
        return round(self.first_band + share * (self.last_band - self.first_band))


@dataclass(frozen=True)
class Start:
    """Where a start stands: the mean map and its components, in a box of the band's diameter, and the noise they leave.

    `noise` is that of each shell.
    """

    maps: Float32[Tensor, "c z y x"]
    noise: Float32[Tensor, " shells"]

    @property
    def band(self) -> int:
        """Band of the maps in Fourier pixels."""
        return int(self.maps.shape[-1]) // 2


@dataclass(frozen=True)
class Moments:
    """What images add to the slices of a bank, by the probabilities p of poses; `e = (1, z)`.

    `image` is `sum_i p_i E[e] C X_t`, `weight` is `sum_i p_i E[e e^T] C^2`, of each pair of maps once, as
    `torch.triu_indices` has them. `log_likelihood` (b,) is `log mean exp` over all poses, less that of an image of
    noise alone; `certain` (b,) the highest probability of a single pose; `model` (b, m) the slice times CTF of that
    pose at its own latent point, as the image shows it.
    """

    image: Complex64[Tensor, "c h m"]
    weight: Float32[Tensor, "pairs h m"]
    log_likelihood: Float32[Tensor, " b"]
    certain: Float32[Tensor, " b"]
    model: Complex64[Tensor, "b m"]


def unposed(store: ParticleStore) -> ParticleStore:
    """The same particles as if nothing were known of their poses: as they lie in their images."""
    return store.with_pose(Pose(torch.eye(3).repeat(len(store), 1, 1), torch.zeros(len(store), 2)))


@torch.no_grad()
def expectation(batch: Batch, bank: SliceBank, *, disk: FourierDisk, shifts: Float32[Tensor, "t 2"]) -> Moments:
    """How likely each image is at each rotation of a bank and at each shift, and the sums that this makes.

    Args:
        batch: images as they lie, whitened, of the disk's coefficients.
        bank: of the mean map, then of the components of `z ~ N(0, I)`.
    """
    phase = shift_phase(disk.frequency.to(batch.ctf) / disk.box, shifts.to(batch.ctf))
    count, half, points = bank.slices.shape
    pairs = torch.triu_indices(count, count).T.tolist()
    image, weight = torch.zeros_like(bank.slices), bank.slices.real.new_zeros(len(pairs), half, points)
    likelihood, certain, model = [], [], []
    for part in batch.split(max(1, SCORES // (count * len(shifts) * bank.columns))):
        moved, power = (part.ctf * part.image)[:, None] * phase, part.ctf.square()
        evidence = Evidence.of(*bank.products(moved, power))
        score, z = evidence.at_one(), evidence.latent()
        total = torch.logsumexp(score.flatten(1), 1)
        best, at = score.flatten(1).max(1)
        likelihood.append(total - math.log(score[0].numel()))
        certain.append((best - total).exp())
        here = z.flatten(2).gather(2, at.expand(len(z), -1)[..., None])[..., 0]
        slices = torch.einsum("kb,kbm->bm", _with_one(here).to(part.image), bank.at(bank.numbers(at % bank.columns)))
        model.append(slices * part.ctf * phase[at // bank.columns].conj())
        share = score.sub_(total[:, None, None, None]).exp_()
        weighted = _with_one(z) * share
        for k, of_map in enumerate(weighted):
            # an image turned by 180 degrees adds its conjugate
            both, apart = (
                (of_map[:, :, 0] + of_map[:, :, 1]).flatten(0, 1),
                (of_map[:, :, 0] - of_map[:, :, 1]).flatten(0, 1),
            )
            flat = moved.flatten(0, 1)
            image[k] += torch.complex(both.mT @ flat.real, apart.mT @ flat.imag)
        of_rotation = share.sum((1, 2))
        for number, (k, other) in enumerate(pairs):
            second = (weighted[k] * z[other - 1]).sum((1, 2)) if other else of_rotation
            if k:
                second += of_rotation * evidence.covariance[:, 0, 0, :, k - 1, other - 1]
            weight[number] += second.mT @ power
    return Moments(image, weight, torch.cat(likelihood), torch.cat(certain), torch.cat(model))


def _with_one(z: Float32[Tensor, "q ..."]) -> Float32[Tensor, "c ..."]:
    """What each map counts: 1 for the mean."""
    return torch.cat([z.new_ones(1, *z.shape[1:]), z])


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
            state = _beginning(batch, band, plan.zdim, disk=disk, generator=generator)
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
    bank = _bank(start.maps, level, disk=disk, generator=torch.Generator().manual_seed(seed))
    shifts = shift_grid(shift_pixel, shift_step(disk.box, start.band))
    return float(expectation(store.batch(subset, disk.size), bank, disk=disk, shifts=shifts).log_likelihood.mean())


def _beginning(batch: Batch, band: int, zdim: int, *, disk: FourierDisk, generator: torch.Generator) -> Start:
    """Images back-projected at random poses: of about the right size, and nothing else.

    Components are differences between such maps.
    """
    drawn = []
    for _ in range(zdim + 1):
        sums = Accumulator.zeros(2 * band)
        sums.add(replace(batch, rotation=random_rotations(len(batch), generator)))
        folded = sums.folded()
        drawn.append(folded.solve(folded.shell_weight())[0] * _sphere(2 * band))
    maps = torch.stack([drawn[0], *(COMPONENT_AMPLITUDE * (one - drawn[0]) for one in drawn[1:])])
    return Start(maps, residual_power(batch.image, torch.zeros_like(batch.image), disk)[: band + 1] / len(batch))


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
    before = rebox(state.maps, 2 * band)
    bank = _bank(before, plan.level, disk=disk, generator=generator)
    power = residual_power(batch.image, torch.zeros_like(batch.image), disk)[: band + 1] / len(batch)
    noise = power.clone()  # of shells that are new
    noise[: len(state.noise)] = torch.minimum(state.noise, power[: len(state.noise)])
    whitening = torch.maximum(noise, TRUST * power).clamp(min=1e-12).rsqrt()[disk.shell.clamp(max=band)]
    shifts = shift_grid(shift_pixel, shift_step(disk.box, band))
    moments = expectation(batch.whitened(whitening), bank, disk=disk, shifts=shifts)
    left = residual_power(batch.image, moments.model / whitening, disk)[: band + 1] / len(batch)
    grid = padded_grid(2 * band)
    slices = locate_slices(grid, disk.frequency, bank.rotation)
    numerator, weight = (
        grid.fold(each) for each in slices.insert(moments.image.movedim(0, 2), moments.weight.movedim(0, 2))
    )
    prior = PRIOR * Accumulator(grid, numerator[:, :1], weight[:, :1]).shell_weight()[:, 0]
    precision = torch.stack([prior, *[COMPONENT_PRIOR * prior] * plan.zdim])
    now = m_step(grid, numerator, weight, precision=precision) * _sphere(2 * band)
    return Start(torch.lerp(now, before, plan.memory), torch.lerp(left, noise, NOISE_MEMORY)), moments


def _bank(maps: Float32[Tensor, "c z y x"], level: int, *, disk: FourierDisk, generator: torch.Generator) -> SliceBank:
    grid = padded_grid(maps.shape[-1])
    offset = random_rotations(1, generator)[0]
    return SliceBank.of(grid.from_volumes(maps), grid, disk=disk, level=level, offset=offset)


def _sphere(box: int) -> Float32[Tensor, "z y x"]:
    return spherical_mask(box, 0.8 * box / 2, 0.2 * box / 2)
