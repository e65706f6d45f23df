"""Protection against divergence: steps with non-finite or far too large gradients are skipped."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from cryomorph.training.optimise import Optimisers

SPIKE = 20.0  # times the usual gradient norm
SETTLED = 100  # steps before a spike can be detected
MEMORY = 0.98
NAMED = 8  # images in one message


class GradientMonitor:
    """Checks every step by the norm of its gradient, on the device, without waiting for it.

    The norm is that of the averaged gradient, so all processes decide alike. `flush` reads the decisions back, when the
    program reports to the user anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self.usual = torch.zeros((), device=device)
        self.seen = torch.zeros((), device=device)
        self._pending: list[tuple[Tensor, Int64[Tensor, " b"]]] = []

    def check(self, norm: Float32[Tensor, ""], index: Int64[Tensor, " b"]) -> Float32[Tensor, ""]:
        """1 if the step on the images `index` must be skipped, else 0."""
        spiked = (self.seen >= SETTLED) & (norm > SPIKE * self.usual)
        bad = ~torch.isfinite(norm) | spiked
        share = torch.where(self.seen > 0, 1 - MEMORY, 1.0)
        self.usual = torch.where(bad, self.usual, self.usual + share * (norm - self.usual))
        self.seen = self.seen + (~bad).float()
        self._pending.append((bad, index))
        return bad.float()

    def flush(self) -> tuple[int, int, list[int]]:
        """Number of steps since the last call, how many of them were skipped, and the images of those."""
        if not self._pending:
            return 0, 0, []
        flags = torch.stack([bad for bad, _ in self._pending]).tolist()
        images = [index for flag, (_, index) in zip(flags, self._pending, strict=True) if flag]
        self._pending.clear()
        return len(flags), len(images), torch.cat(images).tolist() if images else []


def named(images: list[int]) -> str:
    """List of particles for a message, at most `NAMED` of them."""
    text = ", ".join(map(str, sorted(images)[:NAMED]))
    return text if len(images) <= NAMED else f"{text} and {len(images) - NAMED} more"


class LastValidState:
    """A copy in memory of a model and its optimisers, to go back to."""

    def __init__(self, model: nn.Module, optimisers: Optimisers) -> None:
        self._model = {name: value.clone() for name, value in model.state_dict().items()}
        self._memory = {name: value.clone() for name, value in optimisers.state().items()}

    def restore(self, model: nn.Module, optimisers: Optimisers) -> None:
        """Restore the model and its optimisers."""
        model.load_state_dict(self._model)
        optimisers.restore(self._memory)
