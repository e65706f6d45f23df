"""Poses refined by Gauss-Newton, with a prior whose width all particles tell together (METHODS 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from cryomorph.encoders.poses import PoseTable
from cryomorph.encoders.table import TableEncoder
from cryomorph.models.gauss_newton import Unknowns, gauss_newton
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.disk import FourierDisk
from cryomorph.representations.linear import LinearSubspace

POINTS = 1 << 13
ITERATIONS = 2  # a shift of a pixel is not linear: after a single step a rotation can be further off
WEAK = (0.2, 5.0)  # radians and pixels: the prior of the first look at a particle, which keeps the step believable
WIDTHS = torch.logspace(-4, 0, 81)  # of `WEAK`
BLOCK = 3.0  # Fourier pixels: neighbouring coefficients of a map share their noise
Total = Callable[[Tensor], Tensor]


def alone(value: Tensor) -> Tensor:
    """The sum over all processes where there is one."""
    return value


@dataclass(frozen=True)
class Offsets:
    """What images say of their poses: the best offset (k, 5) of each from its given pose, and its covariance.

    `split` (2, k, 5) are the best offsets by either half of the coefficients alone, in alternate blocks of shells;
    `kept` (k, 5) is how much of the square of a true offset their product keeps, `leaked` (k, 5) what the unknown
    latent point adds to it: the priors' doing, both.
    """

    particle: Int64[Tensor, " k"]
    best: Float32[Tensor, "k 5"]
    covariance: Float32[Tensor, "k 5 5"]
    split: Float32[Tensor, "2 k 5"]
    kept: Float32[Tensor, "k 5"]
    leaked: Float32[Tensor, "k 5"]

    @staticmethod
    def cat(parts: list[Offsets]) -> Offsets:
        """Those of several sets of particles in a row."""
        split = torch.cat([part.split for part in parts], dim=1)
        particle, best, covariance, kept, leaked = (
            torch.cat([getattr(part, name) for part in parts])
            for name in ("particle", "best", "covariance", "kept", "leaked")
        )
        return Offsets(particle, best, covariance, split, kept, leaked)


def refine_poses(
    model: Heterogeneous,
    store: ParticleStore,
    subset: Int64[Tensor, " k"],
    *,
    disk: FourierDisk,
    total: Total = alone,
    half_precision: bool = False,
) -> dict[str, float]:
    """A few Gauss-Newton steps of every particle's pose, shrunk towards the given pose by as much as the data say.

    Latent points stay where the model's encoder has them.

    Args:
        subset: the particles to refine; other rows of the table are not touched.
        disk: the band to compare.
        total: adds tensors up over all processes.

    Returns:
        the widths found, and the median size of the offsets, in degrees and pixels: see `shrink`.
    """
    if model.poses is None:
        raise ValueError("this model has no table of poses")
    found = best_offsets(model, store, subset, disk=disk, half_precision=half_precision)
    return shrink(model.poses, found, total=total)


def refine_across_halves(
    maps: Float32[Tensor, "two c z y x"],
    store: ParticleStore,
    poses: PoseTable,
    *,
    whitening: Float32[Tensor, " size"],
) -> dict[str, float]:
    """As `refine_poses`, with each half set's particles against the linear maps of the other half set.

    No image is compared with a map that it is in. Against a map of all, its own share of noise, which lies where its
    pose was, holds the pose there. The latent point is unknown too: its uncertainty is part of the pose's.

    Args:
        maps: mean and components, for standard normal latent points, of half set 0 and of half set 1.
    """
    zdim = maps.shape[1] - 1
    nothing = torch.zeros(len(store), zdim)
    found = []
    for half in (0, 1):
        subspace = LinearSubspace(maps[1 - half])
        model = Heterogeneous(
            subspace,
            TableEncoder(nothing, nothing + 1),
            prior_std=torch.ones(zdim),
            whitening=whitening,
            poses=poses,
        )
        disk = store.disk.within(subspace.band / 2)
        subset = (store.half == half).nonzero().squeeze(1)
        found.append(best_offsets(model, store, subset, disk=disk, free_latent=True))
    return shrink(poses, Offsets.cat(found))


def best_offsets(
    model: Heterogeneous,
    store: ParticleStore,
    subset: Int64[Tensor, " k"],
    *,
    disk: FourierDisk,
    free_latent: bool = False,
    half_precision: bool = False,
) -> Offsets:
    """The offset of each particle that fits its image best, from where the model's table of poses has it.

    Args:
        free_latent: the latent point is unknown too, with the model's prior; else it is the encoder's.
    """
    poses = model.poses or PoseTable(len(store)).to(model.prior_std.device)
    best, split = torch.zeros(len(subset), 5), torch.zeros(2, len(subset), 5)
    kept, leaked = torch.zeros(len(subset), 5), torch.zeros(len(subset), 5)
    covariance = torch.zeros(len(subset), 5, 5)
    first = (disk.radius / BLOCK).long() % 2 == 0
    done = 0
    for given in ParticleLoader(store, max(1, POINTS // disk.size), subset=subset):
        batch = given.to(poses.offset.device)
        z = model.posterior(model.placed(batch, store.disk)).mean.detach()
        seen = batch.within(disk.size).whitened(model.whitening)
        prior = seen.rotation.new_tensor([WEAK[0]] * 3 + [WEAK[1]] * 2).expand(len(batch), -1)
        start = poses.of(batch)
        if free_latent:
            prior = torch.cat([model.prior_std.expand(len(batch), -1), prior], dim=1)
            start = torch.cat([z, start], dim=1)
        whole, *halves = (
            gauss_newton(
                model.representation,
                images,
                start,
                unknowns=Unknowns(prior, fixed_z=None if free_latent else z, pose=True),
                disk=disk,
                iterations=ITERATIONS + free_latent,
                half_precision=half_precision,
            )
            for images in (seen, seen.only(first.to(z.device)), seen.only(~first.to(z.device)))
        )
        rows = slice(done, done + len(batch))
        best[rows], covariance[rows] = whole.value[:, -5:].cpu(), whole.covariance[:, -5:, -5:].cpu()
        split[:, rows] = torch.stack([half.value[:, -5:].cpu() for half in halves])
        # the most probable point of x ~ N(0, P^-1) is (1 - C P) x and noise, for an offset and for the latent point
        one, other = (half.covariance[:, -5:] / prior[:, None].square() for half in halves)
        still = torch.eye(5).to(one)
        kept[rows] = ((still - one[..., -5:]) * (still - other[..., -5:])).sum(2).cpu()
        leaked[rows] = (one * other * prior[:, None].square())[..., :-5].sum(2).cpu()
        done += len(batch)
    return Offsets(subset, best, covariance, split, kept, leaked)


def shrink(poses: PoseTable, found: Offsets, *, total: Total = alone) -> dict[str, float]:
    """Put best offsets into the table, each shrunk towards nothing by as much as all particles together say.

    Given poses are off by an unknown amount, alike for all particles: `N(0, w^2)` about each axis of the image and
    along both directions. With `e` a particle's best offset and `C` its covariance, `w` maximises the likelihood of all
    `e ~ N(0, C + w^2)`; each offset becomes `w^2 (w^2 + C)^-1 e`. So poses that were right stay where they are.

    `C` is the image's noise; the maps have noise of their own, which spreads the offsets too. So `w` is at most
    `shared_width`.

    Returns:
        the widths `w`, and the median size of the offsets, in degrees and pixels.
    """
    facts = {}
    for name, part, weak_width, unit in (
        ("rotation_deg", slice(0, 3), WEAK[0], 180 / torch.pi),
        ("shift_pixel", slice(3, 5), WEAK[1], 1.0),
    ):
        block, offset = found.covariance[:, part, part], found.best[:, part]
        trust = block.diagonal(dim1=1, dim2=2).sum(1).square().reciprocal().double()
        shared = shared_width(found, part, trust, total=total)
        width = min(prior_width(offset, block, weak_width * WIDTHS, total=total), shared)
        gain = width**2 * torch.linalg.inv(block + width**2 * torch.eye(block.shape[1]))
        shrunk = (gain @ offset[..., None])[..., 0]
        poses.offset[found.particle.to(poses.offset.device), part] = shrunk.to(poses.offset.device)
        facts[f"{name}_prior"] = width * unit
        facts[f"{name}_median"] = float(shrunk.norm(dim=1).median()) * unit
    return facts


def shared_width(found: Offsets, part: slice, trust: Float64[Tensor, " n"], *, total: Total = alone) -> float:
    """What two halves of every image's coefficients agree on, in rotations or in shifts.

    `w^2 = sum_i t_i (<e_i1, e_i2> - leaked_i) / sum_i t_i kept_i`. Noise, of the image or of the map, is not the same
    in both; that a pose is off is.

    Args:
        part: which of the five numbers of an offset.
        trust: weight `t` of each particle.
    """
    product = (found.split[0, :, part].double() * found.split[1, :, part].double()).sum(1)
    above = _average(product - found.leaked[:, part].sum(1), trust, total)
    return max(above / max(_average(found.kept[:, part].double().sum(1), trust, total), 1e-12), 0.0) ** 0.5


def _average(value: Float64[Tensor, " n"], weight: Float64[Tensor, " n"], total: Total) -> float:
    above, below = total(torch.stack([(weight * value).sum(), weight.sum()])).tolist()
    return float(above / below)


def prior_width(
    offset: Float32[Tensor, "n d"],
    covariance: Float32[Tensor, "n d d"],
    widths: Float32[Tensor, " w"],
    *,
    total: Total = alone,
) -> float:
    """The `w` of `widths` under which all offsets are most likely: `offset ~ N(0, covariance + w^2)`."""
    values, vectors = torch.linalg.eigh(covariance.double())
    along = (vectors.mT @ offset.double()[..., None])[..., 0].square()
    likelihood = []
    for width in widths.tolist():
        variance = values.clamp(min=1e-12) + width**2
        likelihood.append(-0.5 * (variance.log() + along / variance).sum())
    return float(widths[int(total(torch.stack(likelihood)).argmax())])
