"""Options that every run has, whatever makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from cryomorph.config.prepare import ImageSource


@runtime_checkable
class RunConfig(Protocol):
    """Options of everything that makes a run from particles."""

    @property
    def particles(self) -> Path:
        """Particle file or store."""

    @property
    def output(self) -> Path:
        """Run folder."""

    @property
    def images(self) -> ImageSource:
        """Where the images are and how to read them."""

    @property
    def seed(self) -> int:
        """Seed of all random numbers."""

    @property
    def resume(self) -> bool:
        """Whether to continue a run."""

    @property
    def overwrite(self) -> bool:
        """Whether to replace a run."""


@runtime_checkable
class MethodOptions(RunConfig, Protocol):
    """Options of every method."""

    @property
    def recipe(self) -> str:
        """Which of the method's recipes."""

    @property
    def zdim(self) -> int:
        """Dimension of the latent space."""

    @property
    def mask(self) -> str:
        """Mask of the linear maps: a file, sphere or auto."""

    @property
    def device(self) -> str:
        """Device to train on."""
