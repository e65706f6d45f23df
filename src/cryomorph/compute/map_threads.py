"""Independent jobs shared by threads: torch's own threads gain little where its operations are short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from cryomorph.config.console import track

MEMORY = 4 << 30  # bytes that jobs may take together
Job = TypeVar("Job")
Result = TypeVar("Result")


def map_in_threads(
    work: Callable[[Job], Result], jobs: Sequence[Job], description: str, *, job_bytes: int = 0
) -> Iterator[Result]:
    """Results of jobs in their order, with a progress bar; each thread works on one job at a time.

    With as many threads as torch uses, and no more than their memory allows; if that is one, here and with all of
    torch's threads. Results do not depend on the number of threads beyond what torch's do.

    Args:
        job_bytes: memory that a job takes while it is worked on.
    """
    processors = torch.get_num_threads()
    size = min(processors, len(jobs), MEMORY // max(job_bytes, 1))
    if size <= 1:
        yield from map(work, track(jobs, description, total=len(jobs)))
        return
    with ThreadPoolExecutor(size, "map", torch.set_num_threads, (processors // size,)) as pool:
        torch.set_num_threads(1)
        try:
            yield from track(pool.map(work, jobs), description, total=len(jobs))
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(processors)
