"""Threads that share the images of a batch: a small network's operations are too short to be split among processors.

Torch splits every single operation, and its threads synchronise after each of them: on two processors a step of a
neural field is then no faster than on one (benchmarks/neural_field.py). Here each thread takes some of the images
through the whole model, and the threads synchronise once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from jaxtyping import Float32, Shaped
from torch import Tensor

MIN_IMAGES = 4  # of a batch for each thread
Job = TypeVar("Job")
Result = TypeVar("Result")


class BatchThreads:
    """A pool of threads with an equal share of the processors each; the calling thread waits and uses one at most.

    Args:
        images: size of a batch; a small batch is shared by fewer threads.
        processors: how many to use; by default those that torch uses.
    """

    def __init__(self, images: int, processors: int | None = None) -> None:
        self._before = torch.get_num_threads()
        processors = self._before if processors is None else processors
        self.size = max(1, min(processors, images // MIN_IMAGES))
        self._each = processors // self.size
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> BatchThreads:
        if self.size > 1:
            self._pool = ThreadPoolExecutor(self.size, "batch", torch.set_num_threads, (self._each,))
            torch.set_num_threads(1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        torch.set_num_threads(self._before)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Give all processors to the calling thread, for work that the pool takes no part in."""
        now = torch.get_num_threads()
        torch.set_num_threads(self._before)
        try:
            yield
        finally:
            torch.set_num_threads(now)

    def map(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> list[Result]:
        """Results of all jobs, in order; exceptions propagate. A pool of one thread is the calling thread itself."""
        return [work(job) for job in jobs] if self._pool is None else list(self._pool.map(work, jobs))

    def rows(self, n: int) -> list[slice]:
        """`n` rows split into one slice for each thread."""
        share = -(-n // self.size)
        return [slice(start, start + share) for start in range(0, n, share)]


Rowwise = Callable[[slice, Float32[Tensor, "k q"]], Shaped[Tensor, "k ..."]]


def apply_in_threads(
    threads: BatchThreads | None, function: Rowwise, points: Float32[Tensor, "b q"], *, weights: Sequence[Tensor]
) -> Shaped[Tensor, "b ..."]:
    """`function(rows, points[rows])` of all rows, shared by threads; computed here if there are none, or only one.

    Args:
        function: a result for each row, given the rows' slice and their points.
        points, weights: what the result is differentiated by; `weights` are the parameters that `function` uses.
    """
    if threads is None or threads.size == 1:
        return function(slice(None), points)
    result: Tensor = _ApplyInThreads.apply(threads, function, points, *weights)
    return result


class _ApplyInThreads(torch.autograd.Function):
    """Each thread builds an autograd graph of its own, and back-propagates through it."""

    @staticmethod
    def forward(ctx: Any, threads: BatchThreads, function: Rowwise, points: Tensor, *weights: Tensor) -> Tensor:
        kind = points.device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        needed = any(ctx.needs_input_grad)

        def part(rows: slice) -> tuple[Tensor, Tensor]:
            own = points[rows].detach().requires_grad_(ctx.needs_input_grad[2])
            # a cache of weights in half precision would tie the threads' graphs together
            with torch.set_grad_enabled(needed), torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
                return own, function(rows, own)

        ctx.threads, ctx.rows = threads, threads.rows(len(points))
        ctx.graphs = threads.map(part, ctx.rows)
        ctx.weights = [weight for weight in weights if weight.requires_grad]
        return torch.cat([value.detach() for _, value in ctx.graphs])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        by_points_too = ctx.needs_input_grad[2]

        def part(number: int) -> tuple[Tensor | None, ...]:
            own, value = ctx.graphs[number]
            inputs = [own, *ctx.weights] if by_points_too else ctx.weights
            return torch.autograd.grad(value, inputs, grad[ctx.rows[number]], allow_unused=True)

        parts = ctx.threads.map(part, range(len(ctx.rows)))
        ctx.graphs = None
        by_points = torch.cat([each[0] for each in parts]) if by_points_too else None
        by_weight = iter([_sum(terms) for terms in zip(*(each[by_points_too:] for each in parts), strict=True)])
        return None, None, by_points, *(next(by_weight) if need else None for need in ctx.needs_input_grad[3:])


def _sum(terms: Sequence[Tensor | None]) -> Tensor | None:
    """Sum of the terms that are not None, always in the same order: training is reproducible to the last digit."""
    there = [term for term in terms if term is not None]
    return torch.stack(there).sum(0) if there else None
