"""Noise spectra against noise whose power is known."""

import math

import numpy as np
import pytest
import torch

from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.noise import outside_power, outside_window, residual_power, shell_mean, typical_power

BOX, N = 48, 400


def white(n: int = N, box: int = BOX, sigma: float = 3.0) -> torch.Tensor:
    return sigma * torch.randn(n, box, box, generator=torch.Generator().manual_seed(0))


def blob(box: int = BOX, height: float = 50.0) -> torch.Tensor:
    line = torch.arange(box) - box // 2
    return height * torch.exp(-(line[:, None] ** 2 + line**2) / (2 * (box / 10) ** 2))


def spread(power: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest relative error, leaving out the first shells, which hold few coefficients of a wide window."""
    return float((power / expected - 1)[4:].abs().max())


def test_white_noise_has_its_variance_in_every_shell():
    power = typical_power(outside_power(white(), fourier_disk(BOX)))
    assert power.shape == (BOX // 2 + 1,)
    assert spread(power, torch.full_like(power, BOX**2 * 9.0)) < 0.1
    assert float((power[4:] / (BOX**2 * 9)).mean()) == pytest.approx(1, abs=0.02)
    assert power[0] == power[1]


def test_a_cropped_disk_sees_the_cropped_image_s_noise():
    """Cropping in Fourier space keeps pixel values: a coefficient shrinks by the ratio of the areas."""
    power = typical_power(outside_power(white(), fourier_disk(32)))
    expected = BOX**2 * 9.0 * (32 / BOX) ** 4
    assert spread(power, torch.full_like(power, expected)) < 0.1


def test_coloured_noise_keeps_its_colour():
    transform = torch.fft.rfft2(white())
    k = torch.sqrt(torch.fft.fftfreq(BOX)[:, None] ** 2 + torch.fft.rfftfreq(BOX) ** 2) * BOX
    gain = 1 / (1 + (k / 8) ** 2)
    power = typical_power(outside_power(torch.fft.irfft2(transform * gain, s=(BOX, BOX)), fourier_disk(BOX)))
    radius = torch.arange(BOX // 2 + 1).float()
    expected = BOX**2 * 9.0 / (1 + (radius / 8) ** 2) ** 2
    assert spread(power, expected) < 0.25  # the window smears a slope


def test_a_bright_particle_and_an_offset_change_little():
    disk = fourier_disk(BOX)
    alone = typical_power(outside_power(white(), disk))
    power = typical_power(outside_power(white() + blob() + 1000.0, disk))
    inside = shell_mean(disk.from_images(white() + blob()).abs().square().mean(0), disk.shell, BOX // 2 + 1)
    assert float((inside / alone)[1:4].min()) > 50  # the particle is bright
    assert float((power / alone - 1).abs()[1:].max()) < 0.05


def test_the_window_is_the_corners():
    window = outside_window(BOX)
    line = torch.arange(BOX) - BOX // 2
    radius = torch.sqrt(line[:, None] ** 2 + line**2) / (BOX / 2)
    assert window[radius >= 1].min() == 1 and window[radius <= 0.94].max() == 0
    assert ((window >= 0) & (window <= 1)).all()
    assert float(window.mean()) == pytest.approx(1 - math.pi / 4, abs=0.05)


def test_shell_mean_by_hand():
    values = torch.tensor([[1.0, 3.0, 5.0], [2.0, 2.0, 8.0]])
    expected = torch.tensor([[0.0, 2.0, 5.0, 0.0], [0.0, 2.0, 8.0, 0.0]])
    assert torch.equal(shell_mean(values, torch.tensor([1, 1, 2]), 4), expected)


@pytest.mark.parametrize("radius", [16, 8])
def test_residual_power_of_unit_noise(radius):
    """`E |n|^2 = 1` for each coefficient, summed over the batch; shells beyond the prefix stay empty."""
    disk = fourier_disk(32)
    count = disk.count(radius)
    generator = torch.Generator().manual_seed(1)
    model = torch.randn(500, count, dtype=torch.complex64, generator=generator)
    noise = torch.randn(500, count, dtype=torch.complex64, generator=generator)
    power = residual_power(model + noise, model, disk) / 500
    filled = np.unique(disk.shell[:count].numpy())
    np.testing.assert_allclose(power[filled].numpy(), 1, atol=0.1)
    assert power.sum() == power[filled].sum()
