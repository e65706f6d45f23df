"""Sharpening against maps whose B-factor is known."""

import pytest
import torch

from cryomorph.config.errors import InputError
from cryomorph.volumes.fsc import fsc, half_map_fsc, shell_sum
from cryomorph.volumes.grid import apply_gain, frequency_grid, lowpass
from cryomorph.volumes.masks import soften, spherical_mask
from cryomorph.volumes.sharpen import fsc_weight, fsc_weighted, guinier_bfactor, sharpen, sharpen_halves

BOX, PIXEL_A = 64, 1.3


def white(seed):
    return torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(seed))


def faded(volume, bfactor_A2):
    return apply_gain(volume, torch.exp(-bfactor_A2 / 4 * (frequency_grid(BOX) / PIXEL_A) ** 2))


@pytest.mark.parametrize("bfactor_A2", [40.0, 120.0, 250.0])
def test_guinier_finds_the_bfactor_of_a_faded_map(bfactor_A2):
    assert guinier_bfactor(faded(white(0), bfactor_A2), PIXEL_A, 3.0) == pytest.approx(-bfactor_A2, rel=0.03)


def test_fsc_weight_takes_the_noise_out_of_the_fit():
    signal = 8 * faded(white(1), 150.0)
    half1, half2 = signal + white(2), signal + white(3)
    mean = (half1 + half2) / 2
    curve = fsc(half1, half2)
    plain = guinier_bfactor(mean, PIXEL_A, 3.3)
    weighted = guinier_bfactor(mean, PIXEL_A, 3.3, fsc=curve)
    assert weighted == pytest.approx(-150, rel=0.1)
    assert abs(plain + 150) > 2 * abs(weighted + 150)


def halves_of_a_ball(bfactor_A2, noise, *, seed):
    """Half maps of a ball of white density that fades with a B-factor, in white noise, and a mask around the ball."""
    ball = spherical_mask(BOX, 20.0) > 0.5
    signal = faded(white(seed) * ball, bfactor_A2)
    halves = [signal + noise * float(signal[ball].std()) * white(100 * seed + number) for number in (1, 2)]
    return *halves, soften(ball, PIXEL_A, dilate_A=5.0, edge_A=6.0)


@pytest.mark.parametrize("noise", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("bfactor_A2", [60.0, 120.0])
def test_the_bfactor_of_noisy_half_maps(bfactor_A2, noise):
    """Within 10 % at three noise levels, with a solvent full of noise that the mask leaves out."""
    half1, half2, mask = halves_of_a_ball(bfactor_A2, noise, seed=3)
    report = half_map_fsc(half1, half2, mask, pixel_A=PIXEL_A)
    found = sharpen_halves(half1, half2, report, mask=mask)
    assert found.bfactor_A2 == pytest.approx(-bfactor_A2, rel=0.1)


def test_half_maps_are_averaged_without_a_filter_and_weighted_once():
    """Coefficients on an axis, whose radius is that of their shell: the average's, times the two factors."""
    half1, half2, mask = halves_of_a_ball(80.0, 1.0, seed=4)
    report = half_map_fsc(half1, half2, mask, pixel_A=PIXEL_A)
    found = sharpen_halves(half1, half2, report, mask=mask, bfactor_A2=-50.0)
    shell = torch.arange(1, int(BOX * PIXEL_A / report.resolution_0143_A) - 1)  # below the low-pass
    curve = report.best[shell]
    gain = (2 * curve / (1 + curve)).sqrt() * torch.exp(12.5 * (shell / (BOX * PIXEL_A)) ** 2)
    sharp, average = (torch.fft.rfftn(volume)[0, 0, shell] for volume in (found.map, (half1 + half2) / 2))
    assert found.bfactor_A2 == -50.0 and len(shell) > 15
    torch.testing.assert_close(sharp, average * gain, rtol=1e-3, atol=1e-2)


def test_sharpening_undoes_the_fading_within_the_resolution():
    volume = white(4)
    sharp = sharpen(faded(volume, 100.0), -100.0, PIXEL_A, resolution_A=4.0)
    assert torch.allclose(sharp, lowpass(volume, PIXEL_A, 4.0), atol=1e-3)


def test_half_maps_are_averaged_with_the_wiener_filter_of_their_fsc():
    """Coefficients on the axes, whose radius is that of their shell: `2 FSC / (1 + FSC)` times the average's."""
    box = 32
    signal, *noises = (torch.randn(box, box, box, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    a, b = (4 * lowpass(signal, 1.0, 5.0) + noise for noise in noises)
    curve = fsc(a, b).clamp(min=0)[1:]
    found, average = (torch.fft.rfftn(volume)[0, 0, 1 : box // 2] for volume in (fsc_weighted(a, b), (a + b) / 2))
    torch.testing.assert_close(found, average * 2 * curve / (1 + curve), rtol=1e-3, atol=1e-3)


def test_weights_follow_the_curve():
    assert fsc_weight(torch.tensor([0.2, 1.0, 0.5, 0.0, -0.3])).tolist() == pytest.approx(
        [1, 1, (2 / 3) ** 0.5, 0, 0], abs=1e-6
    )
    curve = torch.linspace(1, 0.2, BOX // 2)
    volume = white(5)
    found = sharpen(volume, 0.0, PIXEL_A, fsc=curve, resolution_A=0.1)
    ratio = shell_sum(torch.fft.rfftn(found).abs() ** 2, BOX) / shell_sum(torch.fft.rfftn(volume).abs() ** 2, BOX)
    assert torch.allclose(ratio[1:].sqrt().float(), fsc_weight(curve)[1:], atol=0.01)


def test_the_curve_decides_the_lowpass():
    curve = torch.ones(BOX // 2)
    curve[16:] = 0
    found = sharpen(white(6), 0.0, PIXEL_A, fsc=curve)
    power = shell_sum(torch.fft.rfftn(found).abs() ** 2, BOX)
    assert (power[18:] < 1e-6 * power[10]).all()


def test_too_coarse_a_map_is_not_sharpened_and_says_so(capsys):
    assert guinier_bfactor(white(7), 5.0, 12.0) == 0.0
    assert "no B-factor" in capsys.readouterr().err


def test_wrong_requests_are_refused():
    with pytest.raises(InputError, match="expected 32"):
        sharpen(white(8), -100.0, PIXEL_A, fsc=torch.ones(16))
    with pytest.raises(InputError, match="nearer 0"):
        sharpen(white(8), -5000.0, PIXEL_A, resolution_A=2.6)
