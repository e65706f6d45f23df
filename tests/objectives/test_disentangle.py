"""The disentanglement prior against Eq. 7 in loops of numpy, and the bank that it is taken from."""

import numpy as np
import pytest
import torch

from cryomorph.objectives import disentangle
from cryomorph.objectives.disentangle import MemoryBank, disentanglement


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(z: np.ndarray, others: np.ndarray) -> list[float]:
    """Eq. 7 with its neighbours counted as METHODS 4 has them."""
    costs = []
    for i, own in enumerate(z):
        mates = sorted(((own - other) ** 2).sum() for j, other in enumerate(z) if j != i)
        apart = sorted(((own - other) ** 2).sum() for other in others)
        cost = 0.0
        if mates:
            cost += np.mean([np.log(1 + d) for d in mates[: max(1, min(4, len(mates) // 4))]])
            cost += np.mean([np.log(1 + 1 / d) for d in mates])
        if apart:
            cost += np.mean([np.log(1 + d) for d in apart[: max(1, min(128, len(apart) // 4))]])
            cost += np.mean([np.log(1 + 1 / d) for d in apart[-max(1, min(512, len(apart) // 4)) :]])
        costs.append(cost)
    return costs


@pytest.mark.parametrize(("b", "s"), [(30, 900), (30, 3000), (5, 40), (2, 3), (1, 20), (3, 0), (1, 0)])
def test_it_is_equation_7(b, s):
    z, others = points(b, 3), points(s, 3, seed=1)
    found = disentanglement(z, others)
    np.testing.assert_allclose(found, by_hand(z.double().numpy(), others.double().numpy()), rtol=1e-4, atol=1e-6)


def test_two_of_a_class_settle_one_unit_apart():
    """`log(1 + d^2) + log(1 + 1/d^2)` is least at d = 1: pulled and pushed alike."""
    z = torch.tensor([[0.0, 0.0], [0.2, 0.0]], requires_grad=True)
    for _ in range(400):
        (slope,) = torch.autograd.grad(disentanglement(z, torch.zeros(0, 2)).sum(), z)
        z = (z - 0.02 * slope).detach().requires_grad_()
    assert float((z[0] - z[1]).detach().norm()) == pytest.approx(1, abs=0.02)


def test_what_coincides_is_pushed_by_a_finite_force():
    z = torch.zeros(4, 2, requires_grad=True)
    cost = disentanglement(z, torch.zeros(8, 2)).sum()
    cost.backward()
    assert bool(cost.isfinite()) and bool(z.grad.isfinite().all())


def bank_of(n: int = 60, classes: int = 5, zdim: int = 2) -> MemoryBank:
    labels = torch.randint(classes, (n,), generator=torch.Generator().manual_seed(1))
    bank = MemoryBank(labels, zdim)
    bank.code.copy_(torch.arange(n)[:, None].expand(-1, zdim))
    return bank


@pytest.mark.parametrize("sampled", [12_800, 10])
def test_others_are_of_other_classes(monkeypatch, sampled):
    monkeypatch.setattr(disentangle, "SAMPLED", sampled)
    bank = bank_of()
    for own in range(5):
        drawn = {int(code[0]) for code in bank.others(own, torch.Generator().manual_seed(own))}
        there = set(torch.where(bank.projection_class != own)[0].tolist())
        assert drawn == there if sampled > 60 else drawn <= there


def test_every_other_particle_can_be_drawn(monkeypatch):
    monkeypatch.setattr(disentangle, "SAMPLED", 20)
    bank, generator = bank_of(), torch.Generator().manual_seed(0)
    for own in range(5):
        drawn = {int(c[0]) for _ in range(60) for c in bank.others(own, generator)}
        assert drawn == set(torch.where(bank.projection_class != own)[0].tolist())


def test_a_visit_moves_a_code_by_three_tenths():
    bank = bank_of()
    index = torch.where(bank.projection_class == 2)[0][:4]
    before, z = bank.code.clone(), points(4, 2)
    bank.cost(index, z, generator=torch.Generator())
    assert torch.equal(bank.code, before)
    bank.visit(index, z, keep=torch.tensor(1.0))
    torch.testing.assert_close(bank.code[index], 0.7 * before[index] + 0.3 * z)
    rest = torch.ones(60, dtype=torch.bool)
    rest[index] = False
    assert torch.equal(bank.code[rest], before[rest])


def test_a_step_that_was_left_out_and_what_is_no_number_leave_the_bank_alone():
    bank = bank_of()
    index, before, z = torch.tensor([3, 8]), bank.code.clone(), points(2, 2)
    bank.visit(index, z, keep=torch.tensor(0.0))
    assert torch.equal(bank.code, before)
    z[1] = torch.nan
    bank.visit(index, z, keep=torch.tensor(1.0))
    assert torch.equal(bank.code[8], before[8]) and not torch.equal(bank.code[3], before[3])


def test_particles_that_are_never_visited_are_nobody_s_neighbours():
    labels = bank_of().projection_class
    visited = torch.arange(0, 60, 3)
    bank = MemoryBank(labels, 2, visited=visited)
    bank.code.copy_(torch.arange(60)[:, None].expand(-1, 2))
    for own in range(5):
        drawn = {int(code[0]) for code in bank.others(own, torch.Generator())}
        assert drawn == {int(i) for i in visited if labels[i] != own}


def test_only_the_batch_is_pulled_and_pushed():
    bank = bank_of()
    index = torch.where(bank.projection_class == 1)[0][:5]
    z = points(5, 2).requires_grad_()
    bank.cost(index, z, generator=torch.Generator()).sum().backward()
    assert bool((z.grad.abs().sum(1) > 0).all()) and not bank.code.requires_grad


def test_one_class_has_no_others():
    bank = MemoryBank(torch.zeros(9, dtype=torch.int64), 2)
    assert len(bank.others(0, torch.Generator())) == 0
