"""The monitor: which steps are skipped, which images it names; what restoring the last valid state brings back."""

from __future__ import annotations

import torch
from torch import nn

from cryomorph.training.gradient_monitor import MEMORY, SETTLED, SPIKE, GradientMonitor, LastValidState, named
from cryomorph.training.optimise import Optimisers


def monitor_after(norms: list[float]) -> GradientMonitor:
    """A monitor that has seen these gradients, image i at step i, and handed over its verdicts."""
    monitor = GradientMonitor(torch.device("cpu"))
    for i, norm in enumerate(norms):
        monitor.check(torch.tensor(norm), torch.tensor([i]))
    monitor.flush()
    return monitor


def test_steps_that_are_no_numbers_are_left_out_and_their_images_named():
    monitor = GradientMonitor(torch.device("cpu"))
    norms = [1.0, float("nan"), 1.0, float("inf"), 1.0]
    checked = [float(monitor.check(torch.tensor(v), torch.tensor([2 * i, 2 * i + 1]))) for i, v in enumerate(norms)]
    assert checked == [0, 1, 0, 1, 0]
    assert monitor.flush()[1:] == (2, [2, 3, 6, 7])
    assert monitor.flush() == (0, 0, [])


def test_the_usual_norm_is_a_running_mean_of_the_good_steps_alone():
    norms = [2.0, float("nan"), 3.0, float("inf"), 5.0]
    expected = 2.0
    for norm in (3.0, 5.0):
        expected = MEMORY * expected + (1 - MEMORY) * norm
    monitor = monitor_after(norms)
    assert abs(float(monitor.usual) - expected) < 1e-6
    assert float(monitor.seen) == 3


def test_a_spike_is_left_out_once_the_norm_has_settled_and_not_before():
    early, late = monitor_after([1.0] * (SETTLED - 1)), monitor_after([1.0] * SETTLED)
    image = torch.tensor([9])
    assert float(late.check(torch.tensor(0.99 * SPIKE), image)) == 0
    late = monitor_after([1.0] * SETTLED)
    assert float(late.check(torch.tensor(1.01 * SPIKE), image)) == 1
    assert float(late.usual) == 1
    assert float(early.check(torch.tensor(100 * SPIKE), image)) == 0


def test_a_first_step_that_is_no_number_does_not_become_the_usual_norm():
    monitor = monitor_after([float("nan"), 4.0])
    assert float(monitor.usual) == 4.0


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
    valid = LastValidState(model, optimisers)
    step()
    with torch.no_grad():
        model.weight.fill_(torch.nan)
    for _ in range(2):  # a snapshot can be used twice
        valid.restore(model, optimisers)
        assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
        assert all(torch.equal(value, memory[name]) for name, value in optimisers.state().items())
        step()
