"""An initial model from images without poses: expectation-maximisation over a grid of all poses, at low resolution.

Every image contributes at every rotation and shift with its posterior probability, so that no pose is assigned while
the map is still noise; poses become certain as the map does. Each iteration takes new images, rotates the grid as a
whole and now and then increases the radius (frequency marching). The noise of each shell is the residual of the images,
which includes the map's errors and so anneals. If the particles are flexible, the components of a linear subspace are
estimated along with the mean: each pose has its own posterior of the latent point (docs/methods.md, "Linear subspace"),
so that all images share one frame.
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
from cryomorph.physics.pose import random_rotations, shift_phase
from cryomorph.physics.slicing import locate_slices, padded_grid
from cryomorph.poses.evidence import PoseEvidence
from cryomorph.poses.slice_bank import SliceBank, shift_grid, shift_step
from cryomorph.volumes.backproject import Accumulator
from cryomorph.volumes.grid import rebox
from cryomorph.volumes.masks import spherical_mask

MAX_SCORES = 1 << 22  # log-likelihoods held in memory at once
PRIOR_WEIGHT = 0.1  # regularisation of the map's Wiener filter, as a fraction of a shell's mean weight
MARCHING_SHARE = 0.7  # of the iterations, during which the radius grows
NOISE_MEMORY = 0.5  # weight of the previous iteration's noise
MIN_NOISE_SHARE = 0.5  # of a shell's power: noiseless images would otherwise commit to one hand at once
MIN_INFORMATIVE_NATS = 0.5  # per held-out image; a map of pure noise has 0.01
COMPONENT_AMPLITUDE = 0.3  # of the random components to start from, relative to the mean map
COMPONENT_PRIOR_FACTOR = 10.0  # regularisation of components, relative to the mean map's


@dataclass(frozen=True)
class InitialModelPlan:
    """How an initial model is made.

    Radii are in Fourier pixels, whatever the box: a radius is the number of details that fit across the box.
    """

    images: int = 2000
    batch: int = 250
    iterations: int = 60
    first_radius: int = 4
    last_radius: int = 10
    level: int = 1
    """Level of the grid of rotations, see `so3_grid`."""
    memory: float = 0.5
    """Weight of the previous iteration's map."""
    zdim: int = 0
    """Components of a linear subspace that are estimated along with the map."""

    def radius(self, iteration: int) -> int:
        """Radius of an iteration, in Fourier pixels."""
        share = min(1.0, iteration / (MARCHING_SHARE * self.iterations))
        return round(self.first_radius + share * (self.last_radius - self.first_radius))


@dataclass(frozen=True)
class InitialModel:
    """The mean map and its components, in a box of twice the radius, and the `noise` of each shell that they leave."""

    maps: Float32[Tensor, "c z y x"]
    noise: Float32[Tensor, " shells"]

    @property
    def radius(self) -> int:
        """Radius of the maps in Fourier pixels."""
        return int(self.maps.shape[-1]) // 2


@dataclass(frozen=True)
class Moments:
    """Sums over images for each slice of a bank, weighted by the probabilities p of the poses; `e = (1, z)`.

    `image` is `sum_i p_i E[e] C X_t`, `weight` is `sum_i p_i E[e e^T] C^2` for each pair of maps, in the order of
    `torch.triu_indices`. `log_likelihood` (b,) is `log mean exp` over all poses, minus that of pure noise; `certain`
    (b,) is the highest probability of a single pose; `model` (b, m) is the slice times the CTF at that pose and its
    latent point, shifted to where the image shows it.
    """

    image: Complex64[Tensor, "c h m"]
    weight: Float32[Tensor, "pairs h m"]
    log_likelihood: Float32[Tensor, " b"]
    certain: Float32[Tensor, " b"]
    model: Complex64[Tensor, "b m"]


@torch.no_grad()
def expectation(batch: Batch, bank: SliceBank, *, disk: FourierDisk, shifts: Float32[Tensor, "t 2"]) -> Moments:
    """E-step: the likelihood of each image at each rotation of a bank and each shift, and the sums of `Moments`.

    Args:
        batch: whitened, uncentred images, of the disk's coefficients.
        bank: slices of the mean map, then of the components of `z ~ N(0, I)`.
    """
    phase = shift_phase(disk.frequency.to(batch.ctf) / disk.box, shifts.to(batch.ctf))
    count, half, points = bank.slices.shape
    pairs = torch.triu_indices(count, count).T.tolist()
    image, weight = torch.zeros_like(bank.slices), bank.slices.real.new_zeros(len(pairs), half, points)
    likelihood, certain, model = [], [], []
    for part in batch.split(max(1, MAX_SCORES // (count * len(shifts) * bank.columns))):
        moved, power = (part.ctf * part.image)[:, None] * phase, part.ctf.square()
        evidence = PoseEvidence.of(*bank.products(moved, power))
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
    """Weight of each map: 1 for the mean, then z."""
    return torch.cat([z.new_ones(1, *z.shape[1:]), z])


def make_initial_model(
    store: ParticleStore,
    subset: Int64[Tensor, " k"],
    plan: InitialModelPlan,
    *,
    shift_pixel: float,
    seed: int,
    report: Callable[[int, InitialModel, Moments], None],
) -> InitialModel:
    """Estimate an initial model, starting from images back-projected at random poses.

    Args:
        store: see `ParticleStore.unposed`.
        subset: the particles to draw from, ascending.
        shift_pixel: largest distance of a particle from the image's centre along each axis.
        seed: chooses the random poses, and the images of each iteration.
        report: called after each iteration.
    """
    generator = torch.Generator().manual_seed(seed)
    state: InitialModel | None = None
    for iteration in range(plan.iterations):
        radius = plan.radius(iteration)
        disk = store.disk.within(radius)
        drawn = torch.randperm(len(subset), generator=generator)[: plan.batch]
        batch = store.batch(subset[drawn].sort().values, disk.size)
        if state is None:
            state = _from_random_poses(batch, radius, plan.zdim, disk=disk, generator=generator)
        state, moments = _iterate(batch, state, plan, disk=disk, shift_pixel=shift_pixel, generator=generator)
        report(iteration, state, moments)
    if state is None:
        raise ValueError("expected at least one iteration")
    return state


def held_out_log_likelihood(
    store: ParticleStore,
    subset: Int64[Tensor, " k"],
    model: InitialModel,
    *,
    level: int,
    shift_pixel: float,
    seed: int,
) -> float:
    """Mean log-likelihood, in nats per image, of images that a model was not estimated from, over a grid of all poses.

    The noise is the store's, so that models can be compared.
    """
    disk = store.disk.within(model.radius)
    bank = _bank(model.maps, level, disk=disk, generator=torch.Generator().manual_seed(seed))
    shifts = shift_grid(shift_pixel, shift_step(disk.box, model.radius))
    return float(expectation(store.batch(subset, disk.size), bank, disk=disk, shifts=shifts).log_likelihood.mean())


def _from_random_poses(
    batch: Batch, radius: int, zdim: int, *, disk: FourierDisk, generator: torch.Generator
) -> InitialModel:
    """Maps of images at random poses: blobs of about the right size. Components are differences of such maps."""
    drawn = []
    for _ in range(zdim + 1):
        sums = Accumulator.zeros(2 * radius)
        sums.add(replace(batch, rotation=random_rotations(len(batch), generator)))
        folded = sums.folded()
        drawn.append(folded.solve(folded.shell_weight())[0] * _sphere(2 * radius))
    maps = torch.stack([drawn[0], *(COMPONENT_AMPLITUDE * (one - drawn[0]) for one in drawn[1:])])
    return InitialModel(
        maps, residual_power(batch.image, torch.zeros_like(batch.image), disk)[: radius + 1] / len(batch)
    )


def _iterate(
    batch: Batch,
    state: InitialModel,
    plan: InitialModelPlan,
    *,
    disk: FourierDisk,
    shift_pixel: float,
    generator: torch.Generator,
) -> tuple[InitialModel, Moments]:
    """One EM iteration at the radius of the disk."""
    radius = round(disk.max_radius or disk.box / 2)
    before = rebox(state.maps, 2 * radius)
    bank = _bank(before, plan.level, disk=disk, generator=generator)
    power = residual_power(batch.image, torch.zeros_like(batch.image), disk)[: radius + 1] / len(batch)
    noise = power.clone()  # of shells beyond the previous radius
    noise[: len(state.noise)] = torch.minimum(state.noise, power[: len(state.noise)])
    whitening = torch.maximum(noise, MIN_NOISE_SHARE * power).clamp(min=1e-12).rsqrt()[disk.shell.clamp(max=radius)]
    shifts = shift_grid(shift_pixel, shift_step(disk.box, radius))
    moments = expectation(batch.whitened(whitening), bank, disk=disk, shifts=shifts)
    left = residual_power(batch.image, moments.model / whitening, disk)[: radius + 1] / len(batch)
    grid = padded_grid(2 * radius)
    slices = locate_slices(grid, disk.frequency, bank.rotation)
    numerator, weight = (
        grid.fold(each) for each in slices.insert(moments.image.movedim(0, 2), moments.weight.movedim(0, 2))
    )
    prior = PRIOR_WEIGHT * Accumulator(grid, numerator[:, :1], weight[:, :1]).shell_weight()[:, 0]
    precision = torch.stack([prior, *[COMPONENT_PRIOR_FACTOR * prior] * plan.zdim])
    now = m_step(grid, numerator, weight, precision=precision) * _sphere(2 * radius)
    return InitialModel(torch.lerp(now, before, plan.memory), torch.lerp(left, noise, NOISE_MEMORY)), moments


def _bank(maps: Float32[Tensor, "c z y x"], level: int, *, disk: FourierDisk, generator: torch.Generator) -> SliceBank:
    grid = padded_grid(maps.shape[-1])
    offset = random_rotations(1, generator)[0]
    return SliceBank.of(grid.from_volumes(maps), grid, disk=disk, level=level, offset=offset)


def _sphere(box: int) -> Float32[Tensor, "z y x"]:
    return spherical_mask(box, 0.8 * box / 2, 0.2 * box / 2)
