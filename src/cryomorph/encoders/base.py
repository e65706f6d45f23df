"""The interface of encoders: the posterior of each particle's latent point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from cryomorph.particles.store import Batch


@dataclass(frozen=True)
class Posterior:
    """A Gaussian with independent coordinates: `mean` and `log_variance`, each (b, zdim)."""

    mean: Float32[Tensor, "b zdim"]
    log_variance: Float32[Tensor, "b zdim"]

    def sample(self, noise: Float32[Tensor, "b zdim"]) -> Float32[Tensor, "b zdim"]:
        """`mean + std * noise`: a sample where `noise` is standard normal (the reparametrisation trick)."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise


class Encoder(nn.Module, ABC):
    """The latent points of the particles of a batch. Abstract; every subclass is final."""

    zdim: int

    @abstractmethod
    def forward(self, batch: Batch) -> Posterior:
        """The posterior of each particle of a batch."""


class EncoderNetwork(Encoder):
    """An encoder that a method registers by name, since its state alone says what it is. Abstract."""

    @classmethod
    @abstractmethod
    def of(cls, tensors: dict[str, Tensor]) -> EncoderNetwork:
        """The encoder whose state was saved."""
