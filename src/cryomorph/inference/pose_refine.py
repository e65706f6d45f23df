"""Poses refined by Gauss-Newton, with a prior whose width all particles tell together (METHODS 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.inference.gauss_newton import Unknowns, gauss_newton
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.disk import FourierDisk

POINTS = 1 << 13
ITERATIONS = 2  # a shift of a pixel is not linear: after a single step a rotation can be further off
WEAK = (0.2, 5.0)  # radians and pixels: the prior of the first look at a particle, which keeps the step believable
WIDTHS = torch.logspace(-4, 0, 81)  # of `WEAK`


def refine_poses(
    model: Heterogeneous,
    store: ParticleStore,
    subset: Int64[Tensor, " k"],
    *,
    disk: FourierDisk,
    total: Callable[[Tensor], Tensor] = lambda value: value,
    half_precision: bool = False,
) -> dict[str, float]:
    """A few Gauss-Newton steps of every particle's pose, shrunk towards the given pose by as much as the data say.

    Given poses are off by an unknown amount, alike for all particles: `N(0, w^2)` about each axis of the image and
    along both directions. With `e` a particle's best offset and `C` its covariance, `w` maximises the likelihood of all
    `e ~ N(0, C + w^2)`; each offset becomes `w^2 (w^2 + C)^-1 e`. So poses that were right stay where they are.

    Args:
        subset: the particles to refine; other rows of the table are not touched.
        disk: the band to compare.
        total: adds tensors up over all processes.

    Returns:
        the widths found, and the median size of the offsets, in degrees and pixels.
    """
    poses, encoder = model.poses, model.encoder
    if poses is None:
        raise ValueError("this model has no table of poses")
    best = torch.zeros(len(subset), 5)
    covariance = torch.zeros(len(subset), 5, 5)
    done = 0
    for given in ParticleLoader(store, max(1, POINTS // disk.size), subset=subset):
        batch = given.to(poses.offset.device)
        z = model.posterior(model.placed(batch, store.disk)).mean.detach() if encoder else None
        z = poses.offset.new_zeros(len(batch), 0) if z is None else z
        seen = batch.within(disk.size).whitened(model.whitening)
        weak = seen.rotation.new_tensor([WEAK[0]] * 3 + [WEAK[1]] * 2).expand(len(batch), -1)
        unknowns = Unknowns(weak, fixed_z=z, pose=True)
        found = gauss_newton(
            model.representation,
            seen,
            poses.of(batch),
            unknowns=unknowns,
            disk=disk,
            iterations=ITERATIONS,
            half_precision=half_precision,
        )
        rows = slice(done, done + len(batch))
        best[rows], covariance[rows] = found.value.cpu(), found.covariance.cpu()
        done += len(batch)
    facts = {}
    for name, part, weak_width, unit in (
        ("rotation_deg", slice(0, 3), WEAK[0], 180 / torch.pi),
        ("shift_pixel", slice(3, 5), WEAK[1], 1.0),
    ):
        block, offset = covariance[:, part, part], best[:, part]
        width = prior_width(offset, block, weak_width * WIDTHS, total=total)
        gain = width**2 * torch.linalg.inv(block + width**2 * torch.eye(block.shape[1]))
        shrunk = (gain @ offset[..., None])[..., 0]
        poses.offset[subset.to(poses.offset.device), part] = shrunk.to(poses.offset.device)
        facts[f"{name}_prior"] = width * unit
        facts[f"{name}_median"] = float(shrunk.norm(dim=1).median()) * unit
    return facts


def prior_width(
    offset: Float32[Tensor, "n d"],
    covariance: Float32[Tensor, "n d d"],
    widths: Float32[Tensor, " w"],
    *,
    total: Callable[[Tensor], Tensor] = lambda value: value,
) -> float:
    """The `w` of `widths` under which all offsets are most likely: `offset ~ N(0, covariance + w^2)`."""
    values, vectors = torch.linalg.eigh(covariance.double())
    along = (vectors.mT @ offset.double()[..., None])[..., 0].square()
    likelihood = []
    for width in widths.tolist():
        variance = values.clamp(min=1e-12) + width**2
        likelihood.append(-0.5 * (variance.log() + along / variance).sum())
    return float(widths[int(total(torch.stack(likelihood)).argmax())])
