"""The one sentence of every method: image -> z -> slice -> loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from jaxtyping import Complex64, Float32
from torch import Tensor, nn

from cryomorph.encoders.base import Encoder, Posterior
from cryomorph.encoders.poses import PoseTable
from cryomorph.models.team import Team, in_parts
from cryomorph.objectives.kl import kl_divergence
from cryomorph.objectives.likelihood import negative_log_likelihood
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import FourierDisk
from cryomorph.representations.base import Representation

Objective = Callable[[Batch, Complex64[Tensor, "b m"]], Float32[Tensor, " b"]]
"""What each image of a batch costs, given its slices: the likelihood, or another measure of misfit."""


@dataclass(frozen=True)
class ImageLoss:
    """What each image of a batch costs: `nll` (b,) by the objective, and `kl` (b, zdim) by latent coordinate."""

    nll: Float32[Tensor, " b"]
    kl: Float32[Tensor, "b zdim"]


@final
class Heterogeneous(nn.Module):
    """An encoder that says where a particle lies, and a representation that says what the molecule looks like there.

    Args:
        encoder: None for one map of all particles.
        prior_std: (zdim,) standard deviation of the prior of each latent coordinate.
        whitening: (size,) factor of each coefficient of the store that gives it unit noise, in the noise model chosen.
        poses: corrections of the given poses, where they are refined.
        objective: compares slices with images; the likelihood without.
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
    ) -> None:
        super().__init__()
        self.representation = representation
        self.encoder = encoder
        self.poses = poses
        self.objective = objective
        self.prior_std: Tensor
        self.whitening: Tensor
        self.register_buffer("prior_std", prior_std)
        self.register_buffer("whitening", whitening)

    def placed(self, batch: Batch, disk: FourierDisk) -> Batch:
        """The batch, which holds the coefficients of `disk`, with unit noise and with its poses as refined so far."""
        white = batch.whitened(self.whitening)
        return white if self.poses is None else self.poses(white, disk)

    def posterior(self, batch: Batch) -> Posterior:
        """Where the particles of a batch from `placed` lie; a latent space of no dimension has one point."""
        if self.encoder is None:
            nothing = self.prior_std.new_zeros(len(batch), 0)
            return Posterior(nothing, nothing)
        return self.encoder(batch)

    def forward(
        self, batch: Batch, disk: FourierDisk, noise: Float32[Tensor, "b zdim"], *, team: Team | None = None
    ) -> ImageLoss:
        """The loss of a batch from `placed`, over the coefficients of `disk`; `noise`, standard normal, samples z.

        The batch may hold more than the disk's coefficients: the encoder sees all of them. A team shares the slices.
        """
        seen = batch.within(disk.size)
        posterior = self.posterior(batch)
        kl = kl_divergence(posterior.mean, posterior.log_variance, self.prior_std)

        def misfit(rows: slice, z: Float32[Tensor, "k zdim"]) -> Float32[Tensor, " k"]:
            own = seen.rows(rows)
            return self.objective(own, self.representation.slices(z, own.rotation, disk))

        weights = list(self.representation.parameters())
        return ImageLoss(in_parts(team, misfit, posterior.sample(noise), weights=weights), kl)
