"""Latent points of particles under a trained model: by its encoder, or by Gauss-Newton on each likelihood."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from cryomorph.config.console import track
from cryomorph.latents.joint_em import Located, infer_from_halves, infer_jointly
from cryomorph.latents.nuisance import NuisancePrior, Nuisances
from cryomorph.latents.ppca import Subspace, infer
from cryomorph.models.gauss_newton import Unknowns, gauss_newton
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import Batch, ParticleStore
from cryomorph.physics.slicing import padded_grid
from cryomorph.representations.linear import LinearSubspace
from cryomorph.volumes.backproject import batch_size_for

POINTS = 1 << 13  # coefficients per batch
ITERATIONS = 3
JOINT_ITERATIONS = 8  # from the given poses: a shift by a pixel is not linear

Latents = tuple[Float32[Tensor, "n zdim"], Float32[Tensor, "n zdim"]]


@torch.no_grad()
def encode_amortised(model: Heterogeneous, store: ParticleStore, subset: Int64[Tensor, " k"]) -> Latents:
    """Posterior means and standard deviations by the encoder network, by row of the store; 0 outside `subset`."""
    mean, std = _empty(store, model)
    loader = ParticleLoader(store, 512, subset=subset)
    for given in track(loader, "encoding", total=len(loader)):
        batch = model.prepare_batch(given.to(mean.device), store.disk)
        posterior = model.posterior(batch)
        mean[batch.index], std[batch.index] = posterior.mean, (0.5 * posterior.log_variance).exp()
    return mean, std


def encode_by_gradient(
    model: Heterogeneous,
    store: ParticleStore,
    subset: Int64[Tensor, " k"],
    *,
    half_precision: bool,
    iterations: int = ITERATIONS,
    kept: Bool[Tensor, " size"] | None = None,
) -> Latents:
    """The most probable latent points and their Laplace standard deviations, starting from the model's own posterior.

    Args:
        subset: the particles to encode; the rows of others are 0.
        kept: coefficients to use (default: all).
    """
    mean, std = _empty(store, model)
    disk = store.disk
    loader = ParticleLoader(store, max(1, POINTS // disk.size), subset=subset)
    for given in track(loader, "encoding", total=len(loader)):
        batch = model.prepare_batch(given.to(mean.device), disk)
        batch = batch if kept is None else batch.only(kept)
        prior = model.prior_std.expand(len(batch), -1)
        unknowns = Unknowns(prior)
        start = model.posterior(batch).mean.detach()
        found = gauss_newton(
            model.representation,
            batch,
            start,
            unknowns=unknowns,
            disk=disk,
            iterations=iterations,
            half_precision=half_precision,
        )
        mean[batch.index] = found.value
        std[batch.index] = found.covariance.diagonal(dim1=1, dim2=2).sqrt()
    return mean, std


def linear_latents(
    store: ParticleStore,
    subspace: LinearSubspace,
    prior_std: Float32[Tensor, " q"],
    *,
    whitening: Float32[Tensor, " size"],
    subset: Int64[Tensor, " k"] | None = None,
    kept: Bool[Tensor, " size"] | None = None,
) -> Latents:
    """Exact posterior in a linear subspace, in its coordinates, of a store's particles or of an ascending subset.

    Args:
        prior_std: standard deviation of the coordinates of the particles that the subspace was fitted to.
        whitening: factor of each coefficient that corrects the stored noise amplitude.
        kept: coefficients to use (default: all).
    """
    maps = subspace.maps
    scaled = torch.cat([maps[:1], maps[1:] * prior_std[:, None, None, None]])
    radius = subspace.box // 2
    loader = ParticleLoader(store, batch_size_for(store.disk.count(radius)), radius=radius, subset=subset)
    batches = (batch if kept is None else batch.only(kept) for batch in loader)
    posterior = infer(batches, Subspace(padded_grid(subspace.box), scaled), whitening=whitening)
    return posterior.mean * prior_std, posterior.covariance.diagonal(dim1=1, dim2=2).sqrt() * prior_std


@dataclass(frozen=True)
class LinearPoints:
    """What a linear model says of particles: latent points by all, by the even and by the odd coefficients.

    `mean`, `std` (n, q), `split` (2, n, q); nuisances and log-likelihood (n,) as in `JointPosterior`.
    """

    mean: Float32[Tensor, "n q"]
    std: Float32[Tensor, "n q"]
    split: Float32[Tensor, "two n q"]
    nuisances: Nuisances
    log_likelihood: Float32[Tensor, " n"]


def locate_jointly(
    store: ParticleStore,
    subspace: LinearSubspace,
    prior_std: Float32[Tensor, " q"],
    *,
    whitening: Float32[Tensor, " size"],
    nuisances: NuisancePrior,
) -> LinearPoints:
    """As `linear_latents`, with the contrast and pose errors of each particle found together with its latent point."""
    maps, disk = subspace.maps, store.disk.within(subspace.box / 2)
    scaled = torch.cat([maps[:1], maps[1:] * prior_std[:, None, None, None]])
    model = Subspace(padded_grid(subspace.box), scaled)
    known = Located.unknown(len(store), len(prior_std))

    def batches(doing: str) -> Iterable[Batch]:
        loader = ParticleLoader(store, batch_size_for(disk.size), radius=subspace.box // 2)
        return track(loader, doing, total=len(loader))

    found = infer_jointly(
        batches("locating"),
        model,
        disk=disk,
        whitening=whitening,
        prior=nuisances,
        known=known,
        iterations=JOINT_ITERATIONS,
    )
    known.put(torch.arange(len(store)), found, copies=store.copies)
    again = batches("locating by half of the coefficients")
    split = infer_from_halves(again, model, disk=disk, whitening=whitening, prior=nuisances, known=known)
    std = found.covariance.diagonal(dim1=1, dim2=2).sqrt()
    halves = torch.stack([half.mean for half in split]) * prior_std
    return LinearPoints(found.mean * prior_std, std * prior_std, halves, known.nuisances, found.log_likelihood)


def _empty(store: ParticleStore, model: Heterogeneous) -> Latents:
    shape = (len(store), model.representation.zdim)
    device = model.prior_std.device
    return torch.zeros(shape, device=device), torch.zeros(shape, device=device)
