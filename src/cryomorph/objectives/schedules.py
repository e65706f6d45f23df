"""Weights and rates over a training, as functions of its progress from 0 to 1."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cyclic", "cosine"]
CYCLES = 4
RISE = 0.5  # of a cycle (Fu et al. 2019)


def scheduled(schedule: Schedule, progress: float, *, first: float = 0.0, last: float = 1.0) -> float:
    """A value between `first` and `last` at `progress`.

    `constant`: `last` throughout; `linear` and `cosine`: from `first` to `last`; `cyclic`: four times from `first` to
    `last` in half a cycle, then kept.
    """
    progress = min(max(progress, 0.0), 1.0)
    if schedule == "constant":
        return last
    if schedule == "cyclic":
        within = progress * CYCLES % 1 if progress < 1 else 1.0
        return first + (last - first) * min(1.0, within / RISE)
    if schedule == "cosine":
        return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))
    return first + (last - first) * progress


def grown_radius(progress: float, *, first: float, last: float, share: float) -> float:
    """Band limit in Fourier pixels: from `first` to `last` over the first `share` of a training, then constant."""
    return last if progress >= share else first + (last - first) * progress / share
