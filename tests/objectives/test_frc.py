"""The ring correlation as a loss: which rings count, and how it meets the likelihood."""

import pytest
import torch

from cryomorph.objectives.frc import RingCorrelation, equal_rings, noise_rings
from cryomorph.objectives.likelihood import negative_log_likelihood
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations

DISK = fourier_disk(32)


def batch(slices: torch.Tensor, *, noise: float = 1.0, count: int | None = None) -> Batch:
    """Noisy images of slices under a transfer function that changes its sign."""
    generator = torch.Generator().manual_seed(4)
    ctf = torch.cos(DISK.radius / 3).expand(len(slices), -1)
    image = ctf * slices + noise * torch.randn(slices.shape, dtype=torch.complex64, generator=generator)
    whole = Batch(torch.arange(len(slices)), image, ctf.contiguous(), random_rotations(len(slices), generator))
    return whole if count is None else whole.within(count)


def signal(n: int) -> torch.Tensor:
    """Slices much weaker than the noise, weaker still at high radius."""
    generator = torch.Generator().manual_seed(0)
    return 0.3 * torch.exp(-DISK.radius / 10) * torch.randn(n, DISK.size, dtype=torch.complex64, generator=generator)


def test_a_perfect_model_costs_nothing_and_its_negative_twice_the_weights():
    slices = signal(2)
    loss = RingCorrelation(equal_rings(DISK, first=1, last=16), DISK.shell)
    torch.testing.assert_close(loss(batch(slices, noise=0.0), 3 * slices), torch.zeros(2), atol=1e-2, rtol=0)
    found = loss(batch(slices, noise=0.0), -slices)
    torch.testing.assert_close(found, torch.full((2,), 2.0 * DISK.size), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("first", "last"), [(1, 16), (3, 9)])
def test_equal_rings_add_up_to_the_disk_and_leave_the_others_out(first, last):
    weight = equal_rings(DISK, first=first, last=last)
    assert float(weight.sum()) == pytest.approx(DISK.size)
    inside = [ring for ring in range(17) if first <= ring <= min(last, 15)]
    assert weight.nonzero().squeeze(1).tolist() == inside
    assert len(set(weight[inside].tolist())) == 1


def test_noise_rings_make_it_the_likelihood_to_first_order():
    """Between two models of equal power the losses' difference is that of the log-likelihoods."""
    slices = signal(400)
    given = batch(slices)
    power = (given.ctf * slices).abs().square()
    snr = torch.zeros(17).index_add(0, DISK.shell, power.mean(0)) / torch.bincount(DISK.shell).clamp(min=1)
    loss = RingCorrelation(noise_rings(DISK, snr, first=1, last=16), DISK.shell)
    wrong = slices[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    by_rings = (loss(given, wrong) - loss(given, slices)).mean()
    by_likelihood = (negative_log_likelihood(given, wrong) - negative_log_likelihood(given, slices)).mean()
    assert float(by_rings) == pytest.approx(float(by_likelihood), rel=0.05)


def test_a_band_s_prefix_is_enough():
    slices, count = signal(2), DISK.count(6)
    weight = equal_rings(DISK, first=1, last=16)
    loss = RingCorrelation(weight, DISK.shell)
    found = loss(batch(slices, noise=0.0, count=count), slices[:, :count])
    torch.testing.assert_close(found, torch.zeros(2), atol=1e-2, rtol=0)
