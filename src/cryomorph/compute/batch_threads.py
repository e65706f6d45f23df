"""Threads that share a batch: the operations of a small network are too short to be divided among processors singly.

Torch divides each operation, and its threads meet after every one; on two processors a field's step is then no faster
than on one (benchmarks/neural_field.py). Here each thread takes some images through the whole model; they meet once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from jaxtyping import Float32, Shaped
from torch import Tensor

IMAGES = 4  # of a batch that a thread should get at least
Job = TypeVar("Job")
Result = TypeVar("Result")


class Team:
    """Some threads, each with an equal share of the processors; the one that waits for them takes none.

    Args:
        threads: processors to use; those that torch was given, without.
        images: what a batch holds; few images make few threads.
    """

    def __init__(self, images: int, threads: int | None = None) -> None:
        self._before = torch.get_num_threads()
        threads = self._before if threads is None else threads
        self.size = max(1, min(threads, images // IMAGES))
        self._each = threads // self.size
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Team:
        if self.size > 1:
            self._pool = ThreadPoolExecutor(self.size, "team", torch.set_num_threads, (self._each,))
            torch.set_num_threads(1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        torch.set_num_threads(self._before)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Give the one that waits all processors meanwhile, for work that the team has no part in."""
        now = torch.get_num_threads()
        torch.set_num_threads(self._before)
        try:
            yield
        finally:
            torch.set_num_threads(now)

    def map(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> list[Result]:
        """The results of all jobs, in order; what a job raises is raised here. A team of one is the caller itself."""
        return [work(job) for job in jobs] if self._pool is None else list(self._pool.map(work, jobs))

    def rows(self, n: int) -> list[slice]:
        """`n` rows in parts, one for each thread."""
        share = -(-n // self.size)
        return [slice(start, start + share) for start in range(0, n, share)]


Rowwise = Callable[[slice, Float32[Tensor, "k q"]], Shaped[Tensor, "k ..."]]


def in_parts(
    team: Team | None, function: Rowwise, points: Float32[Tensor, "b q"], *, weights: Sequence[Tensor]
) -> Shaped[Tensor, "b ..."]:
    """`function(rows, points[rows])` of all rows, shared by a team; without one, or on a team of one, done here.

    Args:
        function: makes something of each row, given which rows, and their points.
        points, weights: what the result is differentiable in: the weights are those that `function` uses.
    """
    if team is None or team.size == 1:
        return function(slice(None), points)
    found: Tensor = _InParts.apply(team, function, points, *weights)
    return found


class _InParts(torch.autograd.Function):
    """Every thread makes a graph of its own, and goes back through it."""

    @staticmethod
    def forward(ctx: Any, team: Team, function: Rowwise, points: Tensor, *weights: Tensor) -> Tensor:
        kind = points.device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        needed = any(ctx.needs_input_grad)

        def one(rows: slice) -> tuple[Tensor, Tensor]:
            own = points[rows].detach().requires_grad_(ctx.needs_input_grad[2])
            # a cache of weights in half precision would tie the threads' graphs together
            with torch.set_grad_enabled(needed), torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
                return own, function(rows, own)

        ctx.team, ctx.rows = team, team.rows(len(points))
        ctx.graphs = team.map(one, ctx.rows)
        ctx.weights = [weight for weight in weights if weight.requires_grad]
        return torch.cat([value.detach() for _, value in ctx.graphs])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        moved = ctx.needs_input_grad[2]

        def one(number: int) -> tuple[Tensor | None, ...]:
            own, value = ctx.graphs[number]
            wanted = [own, *ctx.weights] if moved else ctx.weights
            return torch.autograd.grad(value, wanted, grad[ctx.rows[number]], allow_unused=True)

        found = ctx.team.map(one, range(len(ctx.rows)))
        ctx.graphs = None
        by_points = torch.cat([each[0] for each in found]) if moved else None
        by_weight = iter([_sum(parts) for parts in zip(*(each[moved:] for each in found), strict=True)])
        return None, None, by_points, *(next(by_weight) if need else None for need in ctx.needs_input_grad[3:])


def _sum(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The sum of the parts, always in the same order: a training can be repeated to the last digit."""
    there = [part for part in parts if part is not None]
    return torch.stack(there).sum(0) if there else None
