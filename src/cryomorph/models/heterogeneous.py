"""The model of every method: image -> z -> slice -> loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex64, Float32
from torch import Tensor, nn

from cryomorph.compute.batch_threads import BatchThreads, apply_in_threads
from cryomorph.encoders.base import Encoder, Posterior
from cryomorph.encoders.poses import PoseTable
from cryomorph.objectives.kl import kl_divergence
from cryomorph.objectives.likelihood import negative_log_likelihood
from cryomorph.objectives.smoothness import Smoothness
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.pose import neighbouring_rotations
from cryomorph.representations.base import OnGrid, Representation

Objective = Callable[[Batch, Complex64[Tensor, "b m"]], Float32[Tensor, " b"]]
"""Misfit of each image of a batch, given its slices: the negative log-likelihood or another measure."""


@dataclass(frozen=True)
class ImageLoss:
    """Losses of each image of a batch: `nll` (b,) by the objective, `kl` (b, zdim) by latent coordinate.

    `roughness` (b,) is the smoothness penalty of its map, and `mean` (b, zdim) its latent point.
    """

    nll: Float32[Tensor, " b"]
    kl: Float32[Tensor, "b zdim"]
    roughness: Float32[Tensor, " b"]
    mean: Float32[Tensor, "b zdim"]


@final
class Heterogeneous(nn.Module):
    """An encoder, from an image to a latent point, and a representation, from a latent point to a map.

    Args:
        encoder: None for one map of all particles.
        prior_std: (zdim,) standard deviation of the prior of each latent coordinate.
        whitening: (size,) factor of each coefficient of the store that gives it unit noise, in the noise model chosen.
        poses: corrections of the given poses, if they are refined.
        objective: compares slices with images; the likelihood by default.
        smoothness: penalty of the maps of a representation on a grid.
        pose_spread_deg: if above 0, an image is compared in its orientation and in eight others that far from it, with
            the loss `-log mean exp(-loss)` over all nine, so that each counts by its likelihood.
    """

    def __init__(
        self,
        representation: Representation,
        encoder: Encoder | None,
        *,
        prior_std: Float32[Tensor, " zdim"],
        whitening: Float32[Tensor, " size"],
        poses: PoseTable | None = None,
        objective: Objective = negative_log_likelihood,
        smoothness: Smoothness | None = None,
        pose_spread_deg: float | int = 0.0,
    ) -> None:
        super().__init__()
        self.representation = representation
        self.encoder = encoder
        self.poses = poses
        self.objective = objective
        self.smoothness = smoothness
        self.pose_spread_deg = pose_spread_deg
        self.prior_std: Tensor
        self.whitening: Tensor
        self.register_buffer("prior_std", prior_std)
        self.register_buffer("whitening", whitening)

    def prepare_batch(self, batch: Batch, disk: FourierDisk) -> Batch:
        """The batch, which holds the coefficients of `disk`, with unit noise and with its poses as refined so far."""
        white = batch.whitened(self.whitening)
        return white if self.poses is None else self.poses(white, disk)

    def posterior(self, batch: Batch) -> Posterior:
        """Posterior of the latent points of a batch from `prepare_batch`."""
        if self.encoder is None:
            nothing = self.prior_std.new_zeros(len(batch), 0)
            return Posterior(nothing, nothing)
        return self.encoder(batch)

    def forward(
        self, batch: Batch, disk: FourierDisk, noise: Float32[Tensor, "b zdim"], *, threads: BatchThreads | None = None
    ) -> ImageLoss:
        """Loss of a batch from `prepare_batch` over the coefficients of `disk`; `noise`, standard normal, samples z.

        The batch may hold more than the disk's coefficients: the encoder sees all of them. `threads` share the slices.
        """
        seen = batch.within(disk.size)
        posterior = self.posterior(batch)
        kl = kl_divergence(posterior.mean, posterior.log_variance, self.prior_std)

        def cost(rows: slice, z: Float32[Tensor, "k zdim"]) -> Float32[Tensor, "k 2"]:
            return self._cost(seen.rows(rows), z, disk)

        weights = list(self.representation.parameters())
        found = apply_in_threads(threads, cost, posterior.sample(noise), weights=weights)
        return ImageLoss(found[:, 0], kl, found[:, 1], posterior.mean)

    def _cost(self, seen: Batch, z: Float32[Tensor, "k zdim"], disk: FourierDisk) -> Float32[Tensor, "k 2"]:
        """Misfit of images, and smoothness penalty of their maps."""
        rotation = seen.rotation[:, None]
        if self.pose_spread_deg:
            rotation = neighbouring_rotations(seen.rotation, self.pose_spread_deg)
        views, model = rotation.shape[1], self.representation
        roughness = z.new_zeros(len(z))
        if isinstance(model, OnGrid):
            grids = model.grids(z)
            slices = model.views(grids, rotation, disk).flatten(0, 1)
            if self.smoothness is not None and self.training:
                roughness = self.smoothness(grids)
        else:
            slices = model.slices(z.repeat_interleave(views, 0), rotation.flatten(0, 1), disk)
        if views == 1:
            return torch.stack([self.objective(seen, slices), roughness], dim=1)
        each = torch.arange(len(z), device=z.device).repeat_interleave(views)
        misfit = self.objective(seen.rows(each), slices).view(len(z), views)
        return torch.stack([math.log(views) - torch.logsumexp(-misfit, dim=1), roughness], dim=1)
