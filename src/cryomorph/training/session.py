"""A training in progress, and what a method is: its model, its stages, its hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

import torch

from cryomorph.compute.distributed import Parallel
from cryomorph.config.run import MethodOptions
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.folder import RunFolder
from cryomorph.training.consensus import Consensus
from cryomorph.training.distillation import DistillationTargets
from cryomorph.training.linear_start import LinearStart

T = TypeVar("T")


Config = TypeVar("Config", bound=MethodOptions)
Config_co = TypeVar("Config_co", bound=MethodOptions, covariant=True)


class Result(Generic[T]):
    """An attribute of a session that a stage sets for the later ones; it cannot be read before."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, session: None, owner: type) -> Result[T]: ...
    @overload
    def __get__(self, session: object, owner: type) -> T: ...
    def __get__(self, session: object | None, owner: type) -> Result[T] | T:
        if session is None:
            return self
        if self.name not in vars(session):
            raise RuntimeError(f"no stage before this one sets '{self.name}': the recipe lacks one")
        found: T = vars(session)[self.name]
        return found

    def __set__(self, session: object, value: T) -> None:
        vars(session)[self.name] = value


class Session(Generic[Config_co]):
    """A training in progress: what stages read, and what they leave to the next.

    Args:
        config: the method's options, with no choice left open.
    """

    consensus = Result[Consensus]()
    linear = Result[LinearStart]()
    model = Result[Heterogeneous]()

    def __init__(
        self, method: Method[Any], config: Config_co, *, run: RunFolder, store: ParticleStore, parallel: Parallel
    ) -> None:
        self.method, self.config, self.run, self.store, self.parallel = method, config, run, store, parallel
        self.targets: DistillationTargets | None = None
        """Latent points of the particles before training; None if no stage estimates them."""
        self.reestimated = False
        """Whether the latent points of a table were re-estimated under the final weights."""

    @property
    def initial_targets(self) -> DistillationTargets:
        """Latent points of the particles before training; standard normal if no stage estimates them."""
        return self.targets or DistillationTargets.standard_normal(len(self.store), self.config.zdim)

    def build(self) -> Heterogeneous:
        """The method's model, as the options describe it, on this process's device; the same in every process."""
        if self.method.build is None:
            raise RuntimeError(f"the method '{self.method.name}' has no model to build")
        return self.method.build(self).to(self.parallel.device)


def _as_it_is(config: Any) -> Any:
    return config


def _nothing_open(config: Any, store: ParticleStore, device: torch.device) -> Any:
    return config


@dataclass(frozen=True)
class Method(Generic[Config]):
    """A way to fit particles: its name, its model, and its recipes, each a sequence of stages."""

    name: str
    recipes: Mapping[str, tuple[Callable[[Session[Config]], None], ...]] = field(repr=False)
    build: Callable[[Session[Config]], Heterogeneous] | None = None
    """Makes the model; None for a method whose stages train none."""
    by_recipe: Callable[[Any], Any] = _as_it_is
    """Fills in the recipe's settings wherever the user left a choice open: this is what config.json holds."""
    resolve: Callable[[Any, ParticleStore, torch.device], Config] = _nothing_open
    """Makes the choices that depend on the particles and the machine: no choice is left open."""
    check: Callable[[Any], None] = lambda config: None
    """Refuses options, before anything is written."""
    accept: Callable[[Any, ParticleStore], None] = lambda config, store: None
    """Refuses particles, before any stage."""
    open_epoch: Callable[[Session[Config], int, int], None] = lambda session, epoch, epochs: None
    """Prepares the model for an epoch, given its number and how many there are."""
    close_epoch: Callable[[Session[Config]], None] = lambda session: None
    """Adjusts the model after an epoch."""
    write_extras: Callable[[Session[Config]], None] = lambda session: None
    """Writes further files into a finished run."""
