"""The structural disentanglement prior of OPUS-DSD, Eqs. 5 to 7 (docs/methods.md, "Convolutional volume")."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

WITHIN, NEAREST, FARTHEST = 4, 128, 512  # neighbours in the batch; nearest and farthest codes in other classes
SAMPLED = 12_800  # codes of other classes that are compared
SHARE = 4  # at most a quarter of the available codes
KEPT = 0.7  # of an old code at each visit
TINY = 1e-6  # squared distance below which repulsion no longer grows


def disentanglement(z: Float32[Tensor, "b q"], others: Float32[Tensor, "s q"]) -> Float32[Tensor, " b"]:
    """Eq. 7 of each particle of a batch of one projection class.

    Attraction `log(1 + d^2)` to the 4 nearest of the batch and the 128 nearest of other classes; repulsion
    `log(1 + 1/d^2)` from all of the batch and the 512 farthest of other classes. Each term is a mean, over at most a
    quarter of the codes there are.

    Args:
        others: codes of particles of other classes, without gradient.
    """
    b, s = len(z), len(others)
    cost = z.new_zeros(b)
    if b > 1:
        # a particle is not its own neighbour
        apart = _squared(z, z)[~torch.eye(b, dtype=torch.bool, device=z.device)].view(b, b - 1)
        near = apart.topk(_at_most(WITHIN, b - 1), dim=1, largest=False).values
        cost = cost + torch.log1p(near).mean(1) + _repelled(apart).mean(1)
    if s:
        apart = _squared(z, others.detach())
        near = apart.topk(_at_most(NEAREST, s), dim=1, largest=False).values
        far = apart.topk(_at_most(FARTHEST, s), dim=1).values
        cost = cost + torch.log1p(near).mean(1) + _repelled(far).mean(1)
    return cost


def _squared(a: Float32[Tensor, "b q"], b: Float32[Tensor, "s q"]) -> Float32[Tensor, "b s"]:
    # differences, not products: small distances keep their precision
    return (a[:, None] - b).square().sum(2)


def _repelled(squared: Float32[Tensor, "b k"]) -> Float32[Tensor, "b k"]:
    return torch.log1p(1 / squared.clamp(min=TINY))


def _at_most(wanted: int, there: int) -> int:
    return max(1, min(wanted, there // SHARE))


class MemoryBank(nn.Module):
    """The latest latent code of every particle, among which a batch finds its neighbours.

    Args:
        projection_class: (n,) class of each particle's viewing direction.
        visited: the particles whose codes are kept up to date, by default all; others are excluded as neighbours.
    """

    def __init__(
        self, projection_class: Int64[Tensor, " n"], zdim: int, *, visited: Int64[Tensor, " k"] | None = None
    ) -> None:
        super().__init__()
        self.projection_class = projection_class
        self.code: Tensor
        self.by_class: Tensor
        visited = torch.arange(len(projection_class)) if visited is None else visited
        classes = projection_class[visited]
        self.register_buffer("code", torch.zeros(len(projection_class), zdim))
        self.register_buffer("by_class", visited[classes.argsort(stable=True)], persistent=False)
        self._size = torch.bincount(classes, minlength=int(projection_class.max()) + 1).tolist()
        self._start = [sum(self._size[:number]) for number in range(len(self._size))]

    def cost(
        self, index: Int64[Tensor, " b"], z: Float32[Tensor, "b q"], *, generator: torch.Generator
    ) -> Float32[Tensor, " b"]:
        """The prior of each particle of a batch of one class.

        Args:
            index: of the particles, on the CPU.
            generator: draws the codes that are compared, on the bank's device.
        """
        return disentanglement(z, self.others(int(self.projection_class[index[0]]), generator))

    @torch.no_grad()
    def visit(self, index: Int64[Tensor, " b"], z: Float32[Tensor, "b q"], *, keep: Tensor) -> None:
        """Update the codes of a batch, unless its step was skipped (`keep` 0) or a code is not finite."""
        before = self.code[index]
        valid = (keep > 0) & z.isfinite()
        self.code[index] = torch.where(valid, KEPT * before + (1 - KEPT) * z, before)

    def others(self, own: int, generator: torch.Generator) -> Float32[Tensor, "s q"]:
        """Codes of particles of other classes than `own`: a random sample, or all of a small set."""
        start, size = self._start[own], self._size[own]
        there = len(self.by_class) - size
        if not there:
            return self.code[:0]
        if there <= SAMPLED:
            return self.code[torch.cat([self.by_class[:start], self.by_class[start + size :]])]
        drawn = torch.randint(there, (SAMPLED,), generator=generator, device=self.code.device)
        return self.code[self.by_class[drawn + size * (drawn >= start)]]
