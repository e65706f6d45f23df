"""Images that cannot be used: not finite, without variance, with huge values, or far fainter than all others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from cryomorph.config.console import warn
from cryomorph.config.errors import InputError

if TYPE_CHECKING:
    from cryomorph.particles.metadata import Particles

FAULTS = (
    "",
    "with NaN or infinity",
    "without variance",
    "with values beyond 10^12",
    "a million times fainter than the others",
)
NOT_FINITE, CONSTANT, TOO_LARGE, VANISHING = 1, 2, 3, 4
LARGEST = 1e12  # above it, squares of sums leave what float32 can hold
VANISHED = 1e-6  # deviation, relative to the median of all images
NAMED = 5


def faults(images: Float32[Tensor, "b y x"]) -> UInt8[np.ndarray, " b"]:
    """What is wrong with each image, as a place in `FAULTS`; 0 for nothing."""
    # a variance would be rounding noise where all values are one; aminmax(dim=1) takes ten times as long as both
    low, high = images.flatten(1).amin(1), images.flatten(1).amax(1)
    found = torch.zeros(len(images), dtype=torch.uint8)
    found[(low < -LARGEST) | (high > LARGEST)] = TOO_LARGE
    found[low == high] = CONSTANT
    found[~torch.isfinite(high - low)] = NOT_FINITE
    return found.numpy()


def vanishing(records: np.ndarray, good: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Images whose standard deviation is a millionth of the median or less."""
    if not good.any():
        return np.zeros(len(good), dtype=bool)
    return good & (records["deviation"] < VANISHED * np.median(records["deviation"][good]))


def refuse_faults(particles: Particles, fault: UInt8[np.ndarray, " n"], *, skip_bad: bool) -> None:
    """Refuse images that cannot be used, or say that they are left out: which, and why."""
    if not fault.any():
        return
    parts = []
    for number, what in enumerate(FAULTS):
        rows = np.flatnonzero(fault == number)
        if number and len(rows):
            names = ", ".join(
                f"particle {i} (image {particles.image_of[i] + 1} of {particles.stacks[particles.stack_of[i]].name})"
                for i in rows[:NAMED]
            )
            more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
            parts.append(f"{len(rows)} image{'s' * (len(rows) > 1)} {what}: {names}{more}")
    if not skip_bad:
        raise InputError(f"{'; '.join(parts)}: give --skip-bad to leave them out")
    warn(f"left out: {'; '.join(parts)}")
