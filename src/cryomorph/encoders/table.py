"""Auto-decoding: a table with the posterior of every particle (docs/methods.md, "Neural field")."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.encoders.base import Encoder, Posterior
from cryomorph.particles.store import Batch


@final
class TableEncoder(Encoder):
    """The mean and standard deviation of every particle's latent point; buffers, which no optimiser sees.

    After a backward pass `step` moves the particles of the last batch, and no others, by the natural gradient of a
    Gaussian: `mean -= rate * variance * gradient`. The variance is the metric, so no momentum has to be kept for
    particles that are visited once an epoch.
    """

    def __init__(self, mean: Float32[Tensor, "n zdim"], std: Float32[Tensor, "n zdim"]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())
        self.zdim = mean.shape[1]
        self._visited: tuple[Int64[Tensor, " b"], Float32[Tensor, "b zdim"]] | None = None

    def forward(self, batch: Batch) -> Posterior:
        """The rows of a batch; their means collect the gradient that `step` uses."""
        mean = self.mean[batch.index].requires_grad_(torch.is_grad_enabled())
        self._visited = (batch.index, mean)
        return Posterior(mean, 2 * self.std[batch.index].log())

    @torch.no_grad()
    def step(self, rate: float, gradient_scale: float | Tensor) -> None:
        """Move the last batch's means.

        Args:
            rate: share of a full step, 0 to 1.
            gradient_scale: factor from the collected gradient to that of each image's own loss; zero leaves the rows
                unchanged.
        """
        if self._visited is None:
            return
        index, mean = self._visited
        if mean.grad is None:
            return
        gradient = torch.nan_to_num(mean.grad)
        std = self.std[index]
        # in units of the standard deviation a full step is the gradient itself; it is limited to one
        move = (gradient * gradient_scale * std).clamp(-1, 1) * std
        self.mean[index] = mean - rate * move
        self._visited = None
