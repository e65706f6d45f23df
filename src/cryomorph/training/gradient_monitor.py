"""What keeps a training alive: steps that are no numbers, or far too large, are left out; a lost model is put back."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from cryomorph.training.optimise import Optimisers

SPIKE = 20.0  # times the usual gradient norm
SETTLED = 100  # steps before a spike can be told
MEMORY = 0.98
NAMED = 8  # images at most in one message


class StepGuard:
    """Judges every step by its gradient's norm, on the device, without waiting for it.

    The norm is that of the averaged gradient, so all processes judge alike. `verdicts` hands the judgements over every
    so often, when the program speaks to the user anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self.usual = torch.zeros((), device=device)
        self.seen = torch.zeros((), device=device)
        self._pending: list[tuple[Tensor, Int64[Tensor, " b"]]] = []

    def judge(self, norm: Float32[Tensor, ""], index: Int64[Tensor, " b"]) -> Float32[Tensor, ""]:
        """1 where the step must be left out, else 0; `index` are the images that it was made of."""
        spiked = (self.seen >= SETTLED) & (norm > SPIKE * self.usual)
        bad = ~torch.isfinite(norm) | spiked
        share = torch.where(self.seen > 0, 1 - MEMORY, 1.0)
        self.usual = torch.where(bad, self.usual, self.usual + share * (norm - self.usual))
        self.seen = self.seen + (~bad).float()
        self._pending.append((bad, index))
        return bad.float()

    def verdicts(self) -> tuple[int, int, list[int]]:
        """Steps since the last call, how many of them were left out, and the images of those."""
        if not self._pending:
            return 0, 0, []
        flags = torch.stack([bad for bad, _ in self._pending]).tolist()
        images = [index for flag, (_, index) in zip(flags, self._pending, strict=True) if flag]
        self._pending.clear()
        return len(flags), len(images), torch.cat(images).tolist() if images else []


def named(images: list[int]) -> str:
    """Particles in words, the first few of many."""
    text = ", ".join(map(str, sorted(images)[:NAMED]))
    return text if len(images) <= NAMED else f"{text} and {len(images) - NAMED} more"


class Snapshot:
    """A copy of a model and its optimisers in memory, to go back to."""

    def __init__(self, model: nn.Module, optimisers: Optimisers) -> None:
        self._model = {name: value.clone() for name, value in model.state_dict().items()}
        self._memory = {name: value.clone() for name, value in optimisers.state().items()}

    def restore(self, model: nn.Module, optimisers: Optimisers) -> None:
        """Put the model and its optimisers back."""
        model.load_state_dict(self._model)
        optimisers.restore(self._memory)
