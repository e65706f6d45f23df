"""A training in progress, and what a method adds to the stages that all methods share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from cryomorph.compute.batch_threads import BatchThreads
from cryomorph.compute.distributed import Parallel
from cryomorph.config.conv_volume import ConvVolumeConfig
from cryomorph.config.gaussians import GaussiansConfig
from cryomorph.config.neural_field import NeuralFieldConfig
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.gaussian_slices import Mixture
from cryomorph.runs.folder import RunFolder
from cryomorph.training.build import LinearStart
from cryomorph.training.distillation import Lesson
from cryomorph.training.stages.linear import Consensus

TrainedConfig = NeuralFieldConfig | GaussiansConfig | ConvVolumeConfig
T = TypeVar("T")
NOISY = (nn.Dropout, nn.BatchNorm1d)


@dataclass
class Session:
    """A training in progress: what stages read and what they leave to the next."""

    method: Method
    run: RunFolder
    store: ParticleStore
    config: TrainedConfig
    parallel: Parallel
    consensus: Consensus | None = None
    linear: LinearStart | None = None
    lesson: Lesson | None = None
    """Where the particles lie before the training, where the linear stage has said it."""
    neutral: Mixture | None = None
    """Gaussians to begin with."""
    origin: Float32[Tensor, " zdim"] | None = None
    """The latent point of those Gaussians; None for the origin."""
    model: Heterogeneous | None = None
    anew: bool = False
    """Whether the latent points were found anew under the final weights."""

    @property
    def half_precision(self) -> bool:
        """Whether products are taken in bfloat16."""
        return self.config.training.precision == "bfloat16"

    def build(self) -> Heterogeneous:
        """The method's model as the config describes it, on this process's device; the same in every process."""
        return self.method.build(self).to(self.parallel.device)


Stage = Callable[[Session], None]


@dataclass(frozen=True)
class Method:
    """A way to train: its name, its model, and its recipes.

    `accept` refuses particles before any stage; `open_epoch` prepares a model for an epoch, given its number and how
    many there are, and `close_epoch` ends one; `leave` writes what else a finished run of the method holds.
    """

    name: str
    build: Callable[[Session], Heterogeneous]
    recipes: dict[str, tuple[Stage, ...]] = field(repr=False)
    accept: Callable[[TrainedConfig, ParticleStore], None] = lambda config, store: None
    open_epoch: Callable[[Session, int, int], None] = lambda session, epoch, epochs: None
    close_epoch: Callable[[Session], None] = lambda session: None
    leave: Callable[[Session], None] = lambda session: None


def threads_for(device: torch.device, images: int, model: nn.Module | None = None) -> BatchThreads:
    """Threads that share batches of so many images; a GPU needs none.

    A batch is not divided for a model that draws at random within, or averages over its batch.
    """
    whole = model is not None and any(isinstance(part, NOISY) for part in model.modules())
    return BatchThreads(images if device.type == "cpu" and not whole else 1)


def required(value: T | None) -> T:
    """What an earlier stage left; a recipe that lacks that stage is a bug."""
    if value is None:
        raise RuntimeError("a stage of this recipe needs what an earlier one makes")
    return value
