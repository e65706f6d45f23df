"""Values and gradients computed by several threads are those of a single one."""

from __future__ import annotations

from threading import get_ident

import pytest
import torch
from torch import Tensor, nn

from cryomorph.compute.batch_threads import MIN_IMAGES, BatchThreads, apply_in_threads


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 1))
    return network, torch.randn(11, 3), torch.randn(11)


def slopes(threads: BatchThreads | None, *, half: bool = False, learn: bool = True) -> tuple[Tensor, list[Tensor]]:
    network, points, target = problem()
    points.requires_grad_(learn)

    def cost(rows: slice, own: Tensor) -> Tensor:
        return (network(own)[:, 0].float() - target[rows]).square()

    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        each = apply_in_threads(threads, cost, points, weights=list(network.parameters()))
    (each * torch.arange(11)).sum().backward()  # every row counts for something else
    wanted = [weight.grad for weight in network.parameters()] + ([points.grad] if learn else [])
    assert all(grad is not None for grad in wanted)
    return each.detach(), [grad for grad in wanted if grad is not None]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("learn", [True, False])
def test_costs_and_slopes_are_those_of_one_thread(size, learn):
    expected, expected_slopes = slopes(None, learn=learn)
    with BatchThreads(size * MIN_IMAGES, size) as threads:
        assert threads.size == size
        found, found_slopes = slopes(threads, learn=learn)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_slopes, expected_slopes)


def test_half_precision_is_that_of_the_caller():
    exact, _ = slopes(None)
    expected, _ = slopes(None, half=True)
    with BatchThreads(8, 2) as threads:
        found, _ = slopes(threads, half=True)
    assert not torch.equal(expected, exact)
    torch.testing.assert_close(found, expected)


def test_the_same_pool_gives_the_same_digits():
    with BatchThreads(12, 3) as threads:
        first, *others = (slopes(threads) for _ in range(4))
    for other in others:
        torch.testing.assert_close(other, first, atol=0, rtol=0)


def test_without_slopes_nothing_is_kept():
    network, points, target = problem()
    with torch.no_grad(), BatchThreads(8, 2) as threads:
        found = apply_in_threads(threads, lambda rows, own: network(own)[:, 0] - target[rows], points, weights=[])
    assert not found.requires_grad
    torch.testing.assert_close(found, network(points)[:, 0].detach() - target)


def test_a_weight_that_a_part_does_not_use_has_no_slope_there():
    weights = [torch.ones((), requires_grad=True) for _ in range(3)]

    def cost(rows: slice, own: Tensor) -> Tensor:
        return own[:, 0] * weights[0 if rows.start == 0 else 1]

    with BatchThreads(8, 2) as threads:
        apply_in_threads(threads, cost, torch.arange(6.0)[:, None], weights=weights).sum().backward()
    assert [None if w.grad is None else float(w.grad) for w in weights] == [3.0, 12.0, None]


def test_what_a_thread_raises_is_raised():
    def fails(rows: slice, own: Tensor) -> Tensor:
        raise ArithmeticError("no")

    with BatchThreads(8, 2) as threads, pytest.raises(ArithmeticError, match="no"):
        apply_in_threads(threads, fails, torch.zeros(8, 1), weights=[])


def test_threads_are_given_back():
    before = 3
    torch.set_num_threads(before)
    with BatchThreads(8, 4) as threads:
        assert torch.get_num_threads() == 1
        with threads.paused():
            assert torch.get_num_threads() == before
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_pool_of_one_is_the_caller():
    """A GPU's current device and stream belong to a thread."""
    before = torch.get_num_threads()
    with BatchThreads(1, 4) as alone:
        assert alone.size == 1
        assert torch.get_num_threads() == before
        assert alone.map(lambda _: get_ident(), range(3)) == [get_ident()] * 3
    with BatchThreads(8, 2) as threads:
        assert get_ident() not in threads.map(lambda _: get_ident(), range(4))


@pytest.mark.parametrize(("images", "processors", "size"), [(16, 2, 2), (16, 64, 4), (3, 8, 1), (8, 1, 1)])
def test_few_images_make_few_threads(images, processors, size):
    assert BatchThreads(images, processors).size == size


def test_rows_cover_everything_once():
    with BatchThreads(64, 7) as threads:
        for n in (1, 6, 7, 8, 20):
            rows = [i for part in threads.rows(n) for i in range(n)[part]]
            assert rows == list(range(n))
