"""How far a training is."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Progress:
    """Counters of a training: with the tensors of a checkpoint, all that an exact resume needs."""

    epoch: int = 0
    step: int = 0
    rate_factor: float = 1.0
    held_out: list[float] = field(default_factory=list)
    best: int = 0
    """The epoch with the lowest held-out loss; 0 before there is one."""
    stopped: bool = False
