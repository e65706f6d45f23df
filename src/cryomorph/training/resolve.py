"""Choices that a training leaves to the particles and the machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from cryomorph.config.choices import resolved
from cryomorph.particles.projection_class import CLASSES
from cryomorph.particles.store import ParticleStore
from cryomorph.training.device import choose_precision

FIRST_RADIUS = 24.0  # Fourier pixels
IMAGES = 25_000  # seen in a training
FEWEST_EPOCHS, MOST_EPOCHS = 3, 8
FEW_PER_CLASS = 100  # particles per viewing direction, on average, to distinguish 48 of them


def resolve_training(config: Any, store: ParticleStore, device: torch.device, **chosen: Any) -> Any:
    """A method's config with no choice left open.

    Args:
        config: with the settings of its recipe, see `cryomorph.config.training.by_recipe`.
        chosen: further choices, of the method's own options, by name.
    """
    n = len(store)
    settings = {
        "epochs": min(max(round(IMAGES / n), FEWEST_EPOCHS), MOST_EPOCHS),
        "first_radius": min(FIRST_RADIUS, store.box / 2),
        "projection_classes": CLASSES[0] if n < FEW_PER_CLASS * CLASSES[1] else CLASSES[1],
    }
    complete = resolved(config, settings | chosen)
    return replace(complete, training=choose_precision(complete.training, device))
