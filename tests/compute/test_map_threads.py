"""Jobs in threads give what they give one after another."""

from __future__ import annotations

import threading

import pytest
import torch

from cryomorph.compute.map_threads import MEMORY, map_in_threads


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_threads_with_a_share_of_the_processors():
    barrier = threading.Barrier(3, timeout=10)

    def work(number: int) -> tuple[int, int]:
        barrier.wait()
        return number, torch.get_num_threads()

    assert list(map_in_threads(work, range(6), "working")) == [(number, 1) for number in range(6)]
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("jobs", "job_bytes"), [(range(1), 0), (range(4), MEMORY), (range(4), 2 * MEMORY), ([], 0)])
def test_one_at_a_time_runs_here_with_all_processors(jobs, job_bytes):
    def work(number: int) -> tuple[int, int, int]:
        return number, threading.get_ident(), torch.get_num_threads()

    expected = [(number, threading.get_ident(), 3) for number in jobs]
    assert list(map_in_threads(work, jobs, "working", job_bytes=job_bytes)) == expected


def test_an_error_is_raised_here_and_ends_the_work():
    def work(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    with pytest.raises(ValueError, match="two"):
        list(map_in_threads(work, range(50), "working"))
    assert torch.get_num_threads() == 3
