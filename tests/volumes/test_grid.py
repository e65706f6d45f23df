"""Resampling against analytic Gaussians and plane waves; filters against their definition."""

import numpy as np
import pytest
import torch

from cryomorph.config.errors import InputError
from cryomorph.volumes.grid import cosine_step, fourier_crop, fourier_pad, lowpass, resize, shell_amplitude


def gaussian(box, pixel_A, centre_A, sigma_A):
    axis = (torch.arange(box) - box // 2) * pixel_A
    x, y, z = (torch.exp(-((axis - c) ** 2) / (2 * sigma_A**2)) for c in centre_A)
    return z[:, None, None] * y[:, None] * x


@pytest.mark.parametrize(("given", "box"), [(32, 48), (48, 32), (32, 45), (45, 32), (33, 45), (45, 33), (31, 64)])
def test_resampled_gaussian_is_the_analytic_gaussian(given, box):
    extent_A, centre_A = 96.0, (7.0, -11.0, 4.0)
    volume = gaussian(given, extent_A / given, centre_A, 7.0)
    expected = gaussian(box, extent_A / box, centre_A, 7.0)
    # an odd box's origin is not its middle: near the rim the periodic images differ, so the Gaussian stays away from it
    assert torch.allclose(resize(volume, box), expected, atol=2e-5)


@pytest.mark.parametrize(("small", "large"), [(16, 24), (16, 25), (15, 24), (15, 21), (16, 17), (16, 16)])
def test_crop_undoes_pad_for_any_map(small, large):
    volume = torch.randn(2, small, small, small, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(fourier_crop(fourier_pad(volume, large), small), volume, atol=1e-5)


def test_pad_undoes_crop_for_a_band_limited_map():
    volume = lowpass(torch.randn(24, 24, 24, generator=torch.Generator().manual_seed(1)), 1.0, 24 / 5)
    assert torch.allclose(fourier_pad(fourier_crop(volume, 16), 24), volume, atol=1e-5)


def test_padding_to_twice_the_box_keeps_the_voxels():
    volume = torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(2))
    # the origin, voxel 4 of 8, is voxel 8 of 16
    assert torch.allclose(fourier_pad(volume, 16)[::2, ::2, ::2], volume, atol=1e-5)


def test_mean_is_kept():
    volume = torch.rand(18, 18, 18, generator=torch.Generator().manual_seed(3))
    for box in (12, 17, 30):
        assert resize(volume, box).mean() == pytest.approx(float(volume.mean()), abs=1e-6)


def test_lowpass_keeps_coarse_waves_and_removes_fine_ones():
    box, pixel_A = 32, 2.0
    axis = torch.arange(box)
    wave = {k: torch.cos(2 * np.pi * k * axis / box).expand(box, box, box) for k in (3, 8, 12)}
    total = wave[3] + wave[8] + wave[12]
    cut_A = box * pixel_A / 8
    assert torch.allclose(lowpass(total, pixel_A, cut_A), wave[3] + 0.5 * wave[8], atol=1e-5)


def test_lowpass_beyond_nyquist_does_nothing():
    volume = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(lowpass(volume, 1.0, 0.5), volume, atol=1e-5)


def test_cosine_step_has_its_corners():
    assert torch.allclose(
        cosine_step(torch.tensor([0.0, 2.0, 3.0, 4.0, 9.0]), 2.0, 2.0), torch.tensor([1, 1, 0.5, 0, 0])
    )
    assert cosine_step(torch.tensor([2.0, 2.1]), 2.0, 0.0).tolist() == [1, 0]


def test_wrong_requests_are_refused():
    with pytest.raises(InputError, match="cube"):
        resize(torch.zeros(4, 4, 6), 2)
    with pytest.raises(InputError, match="from 2 to 8"):
        fourier_crop(torch.zeros(8, 8, 8), 10)
    with pytest.raises(InputError, match="at least 8"):
        fourier_pad(torch.zeros(8, 8, 8), 6)
    with pytest.raises(InputError, match="above 0"):
        lowpass(torch.zeros(8, 8, 8), 1.0, 0.0)


@pytest.mark.parametrize("box", [12, 13])
def test_shell_amplitude_is_the_root_mean_square_of_each_shell(box):
    """Of all coefficients of numpy's full transform, the mean's excepted; the mean itself counts for nothing."""
    volume = 5 + torch.randn(box, box, box, generator=torch.Generator().manual_seed(5))
    line = np.fft.fftfreq(box, 1 / box)
    radius = np.sqrt(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2)
    power = np.abs(np.fft.fftn(volume.double().numpy())) ** 2
    found = shell_amplitude(volume)
    assert found.shape == (box // 2 + 1,)
    for shell in range(1, box // 2 + 1):
        assert float(found[shell]) == pytest.approx(np.sqrt(power[np.rint(radius) == shell].mean()), rel=1e-5)
    assert float(found[0]) == float(found[1])


def test_shell_amplitude_of_a_gaussian_is_a_gaussian():
    box, sigma = 32, 2.0
    volume = gaussian(box, 1.0, (1.0, -2.0, 0.5), sigma)
    k = torch.arange(1, 8) / box
    expected = (2 * np.pi * sigma**2) ** 1.5 * torch.exp(-2 * (np.pi * sigma * k) ** 2)
    # a shell is one Fourier pixel wide
    torch.testing.assert_close(shell_amplitude(volume)[1:8], expected.float(), rtol=0.1, atol=0)


def test_shell_amplitude_is_never_nothing():
    smooth = lowpass(torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(6)), 1.0, 4.0)
    found = shell_amplitude(smooth)
    assert float(found.min()) == pytest.approx(1e-3 * float(found.max()))
