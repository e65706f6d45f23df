"""The guard: which steps are left out, which images it names, and what a snapshot brings back."""

from __future__ import annotations

import torch
from torch import nn

from cryomorph.training.gradient_monitor import MEMORY, SETTLED, SPIKE, Snapshot, StepGuard, named
from cryomorph.training.optimise import Optimisers


def guard_after(norms: list[float]) -> StepGuard:
    """A guard that has seen these gradients, image i at step i, and handed over its verdicts."""
    guard = StepGuard(torch.device("cpu"))
    for i, norm in enumerate(norms):
        guard.judge(torch.tensor(norm), torch.tensor([i]))
    guard.verdicts()
    return guard


def test_steps_that_are_no_numbers_are_left_out_and_their_images_named():
    guard = StepGuard(torch.device("cpu"))
    norms = [1.0, float("nan"), 1.0, float("inf"), 1.0]
    judged = [float(guard.judge(torch.tensor(v), torch.tensor([2 * i, 2 * i + 1]))) for i, v in enumerate(norms)]
    assert judged == [0, 1, 0, 1, 0]
    assert guard.verdicts()[1:] == (2, [2, 3, 6, 7])
    assert guard.verdicts() == (0, 0, [])


def test_the_usual_norm_is_a_running_mean_of_the_good_steps_alone():
    norms = [2.0, float("nan"), 3.0, float("inf"), 5.0]
    expected = 2.0
    for norm in (3.0, 5.0):
        expected = MEMORY * expected + (1 - MEMORY) * norm
    guard = guard_after(norms)
    assert abs(float(guard.usual) - expected) < 1e-6
    assert float(guard.seen) == 3


def test_a_spike_is_left_out_once_the_norm_has_settled_and_not_before():
    early, late = guard_after([1.0] * (SETTLED - 1)), guard_after([1.0] * SETTLED)
    image = torch.tensor([9])
    assert float(late.judge(torch.tensor(0.99 * SPIKE), image)) == 0
    late = guard_after([1.0] * SETTLED)
    assert float(late.judge(torch.tensor(1.01 * SPIKE), image)) == 1
    assert float(late.usual) == 1
    assert float(early.judge(torch.tensor(100 * SPIKE), image)) == 0


def test_a_first_step_that_is_no_number_does_not_become_the_usual_norm():
    guard = guard_after([float("nan"), 4.0])
    assert float(guard.usual) == 4.0


def test_images_are_named_in_order_and_the_first_few_of_many():
    assert named([7, 3, 5]) == "3, 5, 7"
    assert named(list(range(20, 0, -1))) == "1, 2, 3, 4, 5, 6, 7, 8 and 12 more"


def test_a_snapshot_brings_back_weights_buffers_and_memory():
    torch.manual_seed(2)
    model = nn.BatchNorm1d(3)
    optimisers = Optimisers(model, "adam")

    def step() -> None:
        optimisers.zero_grad()
        model(torch.randn(4, 3)).square().sum().backward()
        optimisers.step(0.1)

    step()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    memory = {name: value.clone() for name, value in optimisers.state().items()}
    snapshot = Snapshot(model, optimisers)
    step()
    with torch.no_grad():
        model.weight.fill_(torch.nan)
    for _ in range(2):  # a snapshot can be used twice
        snapshot.restore(model, optimisers)
        assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
        assert all(torch.equal(value, memory[name]) for name, value in optimisers.state().items())
        step()
