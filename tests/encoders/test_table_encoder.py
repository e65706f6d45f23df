"""The table's steps against the natural gradient of a Gaussian, in closed form."""

import numpy as np
import pytest
import torch

from cryomorph.encoders.table import TableEncoder
from cryomorph.particles.store import Batch

N, ZDIM = 10, 3
GENERATOR = torch.Generator().manual_seed(0)
MEAN = torch.randn(N, ZDIM, generator=GENERATOR)
STD = torch.rand(N, ZDIM, generator=GENERATOR) + 0.2
INDEX = torch.tensor([7, 2, 5])


def batch(index=INDEX) -> Batch:
    b = len(index)
    return Batch(index, torch.zeros(b, 4, dtype=torch.complex64), torch.ones(b, 4), torch.eye(3).expand(b, 3, 3))


def stepped(table: TableEncoder, gradient: torch.Tensor, rate: float, scale=1.0) -> None:
    """One step where the loss of each visited row has the gradient given."""
    (table(batch()).mean * gradient).sum().backward()
    table.step(rate, scale)


def test_it_answers_with_the_rows_of_the_batch():
    posterior = TableEncoder(MEAN, STD)(batch())
    assert torch.equal(posterior.mean, MEAN[INDEX])
    torch.testing.assert_close(posterior.log_variance, STD[INDEX].square().log())


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_a_step_is_the_natural_gradient_of_a_gaussian(rate):
    """The Fisher matrix of a Gaussian in its mean is `1 / variance`: `mean -= rate * variance * gradient`."""
    table = TableEncoder(MEAN, STD)
    gradient = torch.rand(3, ZDIM, generator=torch.Generator().manual_seed(1)) / STD[INDEX]  # steps of less than a std
    stepped(table, gradient, rate)
    for i, slope in zip(INDEX, gradient.double().numpy(), strict=True):
        fisher = np.diag(1 / STD[i].double().numpy() ** 2)
        expected = MEAN[i].double().numpy() - rate * np.linalg.solve(fisher, slope)
        np.testing.assert_allclose(table.mean[i], expected, rtol=1e-5, atol=1e-6)


def test_a_full_step_on_a_quadratic_loss_ends_at_its_minimum():
    """`(z - a)^2 / (2 variance)`: the posterior with that mean and variance, found in one step from within a std."""
    table = TableEncoder(MEAN, STD)
    target = MEAN[INDEX] + STD[INDEX] * torch.empty(3, ZDIM).uniform_(-0.99, 0.99, generator=GENERATOR)
    (0.5 * ((table(batch()).mean - target) / STD[INDEX]) ** 2).sum().backward()
    table.step(1.0, 1.0)
    torch.testing.assert_close(table.mean[INDEX], target)


def test_steps_with_correlated_coordinates_converge_to_the_posterior_mean():
    """`1/2 (z - a)' H (z - a)`, each coordinate's variance that of it alone (`1 / H_ii`), however far it starts."""
    rng = np.random.default_rng(2)
    root = rng.normal(size=(ZDIM, ZDIM)) * 0.3 + np.eye(ZDIM)
    hessian, target = root @ root.T, 4 * rng.normal(size=ZDIM)
    alone = torch.from_numpy(1 / np.sqrt(np.diag(hessian))).float().expand(N, ZDIM)
    table = TableEncoder(MEAN, alone)
    h, a = torch.from_numpy(hessian).float(), torch.from_numpy(target).float()
    for _ in range(150):
        off = table(batch()).mean - a
        (0.5 * torch.einsum("bi,ij,bj->b", off, h, off)).sum().backward()
        table.step(0.5, 1.0)
    np.testing.assert_allclose(table.mean[INDEX], np.tile(target, (3, 1)), atol=1e-4)


def test_no_step_is_longer_than_a_standard_deviation():
    table = TableEncoder(MEAN, STD)
    stepped(table, torch.tensor([[1e6], [-1e6], [1e-3]]).expand(3, ZDIM), 0.7)
    torch.testing.assert_close(table.mean[7], MEAN[7] - 0.7 * STD[7])
    torch.testing.assert_close(table.mean[2], MEAN[2] + 0.7 * STD[2])
    torch.testing.assert_close(table.mean[5], MEAN[5] - 0.7e-3 * STD[5] ** 2)


def test_rows_that_were_not_visited_do_not_move():
    """No momentum: after many steps of some rows the others are as they were, to the last bit."""
    table = TableEncoder(MEAN, STD)
    for _ in range(5):
        stepped(table, torch.ones(3, ZDIM), 1.0)
    others = [i for i in range(N) if i not in INDEX]
    assert torch.equal(table.mean[others], MEAN[others])
    assert not bool((table.mean[INDEX] == MEAN[INDEX]).any())
    assert torch.equal(table.std, STD)


def test_the_scale_turns_a_mean_over_the_batch_into_each_image_s_own_loss():
    alone, together = TableEncoder(MEAN, STD), TableEncoder(MEAN, STD)
    gradient = torch.linspace(-1, 1, 3 * ZDIM).reshape(3, ZDIM)
    stepped(alone, gradient, 0.4)
    (together(batch()).mean * gradient).sum(1).mean().div(50).backward()
    together.step(0.4, torch.tensor(3 * 50.0))
    torch.testing.assert_close(together.mean, alone.mean)


def test_a_scale_of_zero_leaves_every_row_whatever_the_gradient():
    table = TableEncoder(MEAN, STD)
    stepped(table, torch.tensor([[1.0], [float("nan")], [float("inf")]]).expand(3, ZDIM), 1.0, torch.tensor(0.0))
    assert torch.equal(table.mean, MEAN)


def test_a_gradient_that_is_no_number_moves_nothing():
    table = TableEncoder(MEAN, STD)
    stepped(table, torch.tensor([[0.5], [float("nan")], [0.0]]).expand(3, ZDIM), 1.0)
    assert torch.equal(table.mean[[2, 5]], MEAN[[2, 5]])
    assert bool((table.mean[7] < MEAN[7]).all())


def test_a_gradient_is_used_once():
    table = TableEncoder(MEAN, STD)
    table.step(1.0, 1.0)
    stepped(table, torch.ones(3, ZDIM), 0.5)
    table.mean += 1  # as where a training is rolled back
    moved = table.mean.clone()
    table.step(0.5, 1.0)
    assert torch.equal(table.mean, moved)
    with torch.no_grad():
        table(batch())
    table.step(0.5, 1.0)
    assert torch.equal(table.mean, moved)


def test_rows_are_no_weights_and_are_the_table_s_own():
    given = MEAN.clone()
    table = TableEncoder(given, STD)
    assert not list(table.parameters())
    assert set(table.state_dict()) == {"mean", "std"}
    stepped(table, torch.ones(3, ZDIM), 1.0)
    assert torch.equal(given, MEAN)
