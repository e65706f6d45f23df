"""Pose refinement by Gauss-Newton, with a prior whose width is estimated from all particles.

See docs/methods.md, "Neural field".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from cryomorph.encoders.poses import PoseTable
from cryomorph.models.gauss_newton import Unknowns, gauss_newton
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.disk import FourierDisk

POINTS = 1 << 13  # coefficients per batch
ITERATIONS = 2  # a shift by a pixel is not linear: a single step can make a rotation worse
WEAK_PRIOR = (0.2, 5.0)  # standard deviation in radians and pixels, which limits the steps of Gauss-Newton
WIDTHS = torch.logspace(-4, 0, 81)  # of the shared prior, as fractions of `WEAK_PRIOR`
BLOCK = 3.0  # Fourier pixels: neighbouring coefficients of a map share their noise
AllReduce = Callable[[Tensor], Tensor]


def _single_process(value: Tensor) -> Tensor:
    """The sum over all processes if there is only one."""
    return value


@dataclass(frozen=True)
class Offsets:
    """The best offset (k, 5) of each particle from its given pose: three radians and two pixels; and its covariance.

    `split` (2, k, 5) are the best offsets by each half of the coefficients, in alternate blocks of shells. Because of
    the priors, the product of the two underestimates the square of the true offset by the factor `kept` (k, 5).
    """

    particle: Int64[Tensor, " k"]
    best: Float32[Tensor, "k 5"]
    covariance: Float32[Tensor, "k 5 5"]
    split: Float32[Tensor, "2 k 5"]
    kept: Float32[Tensor, "k 5"]

    @staticmethod
    def cat(parts: list[Offsets]) -> Offsets:
        """Concatenate the offsets of several sets of particles."""
        split = torch.cat([part.split for part in parts], dim=1)
        particle, best, covariance, kept = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("particle", "best", "covariance", "kept")
        )
        return Offsets(particle, best, covariance, split, kept)


def refine_poses(
    model: Heterogeneous,
    store: ParticleStore,
    subset: Int64[Tensor, " k"],
    *,
    disk: FourierDisk,
    all_reduce_sum: AllReduce = _single_process,
    half_precision: bool = False,
) -> dict[str, float]:
    """Refine every particle's pose by Gauss-Newton, shrunk towards the given pose by an estimated prior.

    Latent points are those of the model's encoder.

    Args:
        subset: the particles to refine; other rows of the table are not changed.
        disk: the coefficients to compare.
        all_reduce_sum: sums tensors over all processes.

    Returns:
        The prior's widths and the median size of the offsets, in degrees and pixels: see `shrink`.
    """
    if model.poses is None:
        raise ValueError("this model has no table of poses")
    found = best_offsets(model, store, subset, disk=disk, half_precision=half_precision)
    return shrink(model.poses, found, all_reduce_sum=all_reduce_sum)


def best_offsets(
    model: Heterogeneous,
    store: ParticleStore,
    subset: Int64[Tensor, " k"],
    *,
    disk: FourierDisk,
    half_precision: bool = False,
) -> Offsets:
    """The offset of each particle from its pose in the model's table that fits its image best."""
    poses = model.poses or PoseTable(len(store)).to(model.prior_std.device)
    best, split = torch.zeros(len(subset), 5), torch.zeros(2, len(subset), 5)
    kept = torch.zeros(len(subset), 5)
    covariance = torch.zeros(len(subset), 5, 5)
    first = (disk.radius / BLOCK).long() % 2 == 0
    done = 0
    for given in ParticleLoader(store, max(1, POINTS // disk.size), subset=subset):
        batch = given.to(poses.offset.device)
        z = model.posterior(model.prepare_batch(batch, store.disk)).mean.detach()
        seen = batch.within(disk.size).whitened(model.whitening)
        prior = seen.rotation.new_tensor([WEAK_PRIOR[0]] * 3 + [WEAK_PRIOR[1]] * 2).expand(len(batch), -1)
        start = poses.of(batch)
        whole, *halves = (
            gauss_newton(
                model.representation,
                images,
                start,
                unknowns=Unknowns(prior, fixed_z=z, pose=True),
                disk=disk,
                iterations=ITERATIONS,
                half_precision=half_precision,
            )
            for images in (seen, seen.only(first.to(z.device)), seen.only(~first.to(z.device)))
        )
        rows = slice(done, done + len(batch))
        best[rows], covariance[rows] = whole.value.cpu(), whole.covariance.cpu()
        split[:, rows] = torch.stack([half.value.cpu() for half in halves])
        # the most probable value of x ~ N(0, P^-1) is (1 - C P) x plus noise
        one, other = (half.covariance / prior[:, None].square() for half in halves)
        still = torch.eye(5).to(one)
        kept[rows] = ((still - one) * (still - other)).sum(2).cpu()
        done += len(batch)
    return Offsets(subset, best, covariance, split, kept)


def shrink(poses: PoseTable, found: Offsets, *, all_reduce_sum: AllReduce = _single_process) -> dict[str, float]:
    """Put the best offsets into the table, each shrunk towards zero by a prior estimated from all particles.

    The errors of the given poses are `N(0, w^2)` about each axis of the image and along both directions, with the same
    `w` for all particles. With `e` a particle's best offset and `C` its covariance, `w` maximises the likelihood of all
    `e ~ N(0, C + w^2)`; each offset becomes `w^2 (w^2 + C)^-1 e`, so that accurate poses are left almost unchanged.

    `C` covers only the image's noise, but that of the maps spreads the offsets too; `w` is therefore at most
    `shared_width`.

    Returns:
        The widths `w` and the median size of the offsets, in degrees and pixels.
    """
    facts = {}
    for name, part, weak_width, unit in (
        ("rotation_deg", slice(0, 3), WEAK_PRIOR[0], 180 / torch.pi),
        ("shift_pixel", slice(3, 5), WEAK_PRIOR[1], 1.0),
    ):
        block, offset = found.covariance[:, part, part], found.best[:, part]
        trust = block.diagonal(dim1=1, dim2=2).sum(1).square().reciprocal().double()
        shared = shared_width(found, part, trust, all_reduce_sum=all_reduce_sum)
        width = min(prior_width(offset, block, weak_width * WIDTHS, all_reduce_sum=all_reduce_sum), shared)
        gain = width**2 * torch.linalg.inv(block + width**2 * torch.eye(block.shape[1]))
        shrunk = (gain @ offset[..., None])[..., 0]
        poses.offset[found.particle.to(poses.offset.device), part] = shrunk.to(poses.offset.device)
        facts[f"{name}_prior"] = width * unit
        facts[f"{name}_median"] = float(shrunk.norm(dim=1).median()) * unit
    return facts


def shared_width(
    found: Offsets, part: slice, trust: Float64[Tensor, " n"], *, all_reduce_sum: AllReduce = _single_process
) -> float:
    """Width of the pose errors on which the two halves of every image's coefficients agree.

    `w^2 = sum_i t_i <e_i1, e_i2> / sum_i t_i kept_i`: the noise of image and map differs between the two halves, the
    error of the pose does not.

    Args:
        part: which of the five numbers of an offset: rotations or shifts.
        trust: weight `t` of each particle.
    """
    product = (found.split[0, :, part].double() * found.split[1, :, part].double()).sum(1)
    above = _average(product, trust, all_reduce_sum)
    return max(above / max(_average(found.kept[:, part].double().sum(1), trust, all_reduce_sum), 1e-12), 0.0) ** 0.5


def _average(value: Float64[Tensor, " n"], weight: Float64[Tensor, " n"], all_reduce_sum: AllReduce) -> float:
    above, below = all_reduce_sum(torch.stack([(weight * value).sum(), weight.sum()])).tolist()
    return float(above / below)


def prior_width(
    offset: Float32[Tensor, "n d"],
    covariance: Float32[Tensor, "n d d"],
    widths: Float32[Tensor, " w"],
    *,
    all_reduce_sum: AllReduce = _single_process,
) -> float:
    """The `w` of `widths` under which all offsets are most likely: `offset ~ N(0, covariance + w^2)`."""
    values, vectors = torch.linalg.eigh(covariance.double())
    along = (vectors.mT @ offset.double()[..., None])[..., 0].square()
    likelihood = []
    for width in widths.tolist():
        variance = values.clamp(min=1e-12) + width**2
        likelihood.append(-0.5 * (variance.log() + along / variance).sum())
    return float(widths[int(all_reduce_sum(torch.stack(likelihood)).argmax())])
