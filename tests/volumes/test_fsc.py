"""FSC against a plain numpy formula, known signal-to-noise ratios, and the mask correction on pure noise."""

import csv
import math

import numpy as np
import pytest
import torch

from cryomorph.config.errors import InputError
from cryomorph.volumes.fsc import fsc, half_map_fsc, randomise_phases, resolution_A, shell_sum
from cryomorph.volumes.grid import lowpass
from cryomorph.volumes.masks import spherical_mask


def noise(box, seed, *batch):
    return torch.randn(*batch, box, box, box, generator=torch.Generator().manual_seed(seed))


def plain_fsc(a, b):
    """The definition, over the whole centred transform in double precision."""
    box = len(a)
    ft_a, ft_b = (np.fft.fftshift(np.fft.fftn(x.astype(np.float64))) for x in (a, b))
    k = np.arange(box) - box // 2
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int)
    curve = []
    for i in range(box // 2):
        in_a, in_b = ft_a[shell == i], ft_b[shell == i]
        curve.append((in_a * in_b.conj()).sum().real / np.sqrt((abs(in_a) ** 2).sum() * (abs(in_b) ** 2).sum()))
    return np.array(curve)


@pytest.mark.parametrize("box", [16, 17])
def test_fsc_is_its_definition(box):
    a = noise(box, 0)
    b = 0.6 * a + noise(box, 1)
    assert np.allclose(fsc(a, b).numpy(), plain_fsc(a.numpy(), b.numpy()), atol=1e-5)


def test_a_map_correlates_with_itself_with_its_negative_and_not_with_nothing():
    a = 1e12 * noise(20, 2)
    assert torch.allclose(fsc(a, a), torch.ones(10))
    assert torch.allclose(fsc(a, -3 * a), -torch.ones(10))
    assert torch.equal(fsc(a, torch.zeros_like(a)), torch.zeros(10))


def test_batches_and_one_against_many():
    many, one = noise(12, 3, 3), noise(12, 4)
    single = torch.stack([fsc(volume, one) for volume in many])
    assert torch.allclose(fsc(many, one), single, atol=1e-6)
    assert torch.allclose(fsc(many, one.expand(3, 12, 12, 12)), single, atol=1e-6)


def test_shells_agree_between_the_whole_and_the_half_transform():
    k = torch.arange(18) - 9
    shell = (k[:, None, None] ** 2 + k[:, None] ** 2 + k**2).double().sqrt().round().long()
    whole = torch.bincount(shell.flatten())[:9].double()
    assert torch.equal(shell_sum(torch.ones(18, 18, 10), 18), whole)


def test_signal_and_noise_correlate_by_their_ratio():
    box, snr = 48, 0.8
    signal = math.sqrt(snr) * noise(box, 5)
    curve = fsc(signal + noise(box, 6), signal + noise(box, 7))
    # 1 / sqrt(number of independent coefficients) is below 0.03 beyond shell 10
    assert torch.allclose(curve[10:], torch.full_like(curve[10:], snr / (snr + 1)), atol=0.06)
    assert curve[10:].mean() == pytest.approx(snr / (snr + 1), abs=0.01)


def test_resolution_interpolates_linearly_in_frequency():
    curve = np.linspace(1, 0, 21)[:20]  # falls by 0.05 a shell: 0.143 is at shell 17.14
    assert resolution_A(curve, 1.5, 0.143) == pytest.approx(40 * 1.5 / 17.14)
    assert resolution_A(torch.tensor(curve), 1.5, 0.5) == pytest.approx(40 * 1.5 / 10)
    assert resolution_A(curve, 1.5, 0.5, box=41) == pytest.approx(41 * 1.5 / 10)


def test_resolution_at_the_ends():
    assert resolution_A(np.ones(16), 1.2, 0.143) == pytest.approx(2.4)
    assert resolution_A(np.zeros(16), 1.2, 0.143) == pytest.approx(32 * 1.2)
    dip = np.array([1, 0.9, 0.1, 0.9, 0.1])
    assert resolution_A(dip, 1.0, 0.5) == pytest.approx(10 / 1.5)


def test_randomised_phases_keep_amplitudes_and_the_low_band():
    volume = noise(20, 8)
    random = randomise_phases(volume, 5, seed=1)
    before, after = torch.fft.rfftn(volume), torch.fft.rfftn(random)
    assert torch.allclose(after.abs(), before.abs(), rtol=1e-3, atol=1e-2)
    curve = fsc(volume, random)
    assert torch.allclose(curve[:5], torch.ones(5), atol=1e-5)
    assert curve[5:].abs().max() < 0.3


def test_correction_removes_what_a_tight_mask_correlates():
    box = 48
    common = lowpass(noise(box, 9), 1.0, box / 8)
    half1, half2 = (30 * common + noise(box, seed) for seed in (10, 11))
    # both halves are pure noise beyond shell 9; a small, sharp mask spreads the strong low band over all shells
    mask = spherical_mask(box, 5.0)
    report = half_map_fsc(half1, half2, mask, pixel_A=1.0)
    beyond = slice(14, 24)
    assert report.masked[beyond].mean() > 0.2
    assert abs(float(report.corrected[beyond].mean())) < 0.5 * float(report.masked[beyond].mean())
    start = int((report.unmasked[1:] < 0.8).nonzero()[0]) + 1
    assert torch.equal(report.corrected[: start + 2], report.masked[: start + 2])
    m, r = report.masked[start + 2 :], report.phase_randomised[start + 2 :]
    assert torch.allclose(report.corrected[start + 2 :], (m - r) / (1 - r), atol=1e-5)


def test_corrected_curve_is_the_ratio_inside_the_mask():
    box = 48
    mask = spherical_mask(box, 14.0, 8.0)
    signal = lowpass(noise(box, 12), 1.0, 4.0) * spherical_mask(box, 12.0, 4.0)
    noise1, noise2 = 0.3 * noise(box, 13), 0.3 * noise(box, 14)
    report = half_map_fsc(signal + noise1, signal + noise2, mask, pixel_A=1.0, seed=3)
    power = [shell_sum(torch.fft.rfftn(part * mask).abs() ** 2, box) for part in (signal, noise1, noise2)]
    expected = (power[0] / (power[0] + (power[1] + power[2]) / 2)).float()
    assert torch.allclose(report.corrected[6:], expected[6:], atol=0.2)  # three sigma of one shell
    assert (report.corrected[6:] - expected[6:]).mean().abs() < 0.03
    assert report.resolution_0143_A < report.unmasked_0143_A
    assert report.resolution_0143_A < report.resolution_05_A


def test_identical_halves_need_no_correction():
    volume = noise(16, 15)
    report = half_map_fsc(volume, volume, spherical_mask(16, 4.0, 2.0), pixel_A=2.0)
    assert report.phase_randomised is None and torch.equal(report.corrected, report.masked)
    assert torch.allclose(report.corrected, torch.ones(8), atol=1e-5)
    assert report.resolution_0143_A == 4.0


def test_seed_decides_the_random_phases():
    half1, half2, mask = noise(16, 16), noise(16, 17), spherical_mask(16, 5.0, 2.0)
    one, same, other = (half_map_fsc(half1, half2, mask, pixel_A=1.0, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.phase_randomised, same.phase_randomised)
    assert not torch.equal(one.phase_randomised, other.phase_randomised)


def test_a_curve_that_never_falls_says_so():
    volume = noise(16, 15)
    assert half_map_fsc(volume, volume, pixel_A=2.0).resolved(0.5) == "4.00 A or better (Nyquist)"
    other = half_map_fsc(noise(16, 1), noise(16, 2), pixel_A=2.0)
    assert other.resolved(0.143) == f"{other.resolution_0143_A:.2f} A"


def test_table_and_plot(tmp_path):
    half1, half2 = noise(16, 18), noise(16, 19)
    report = half_map_fsc(half1, half2, spherical_mask(16, 5.0, 2.0), pixel_A=1.5)
    report.write_csv(tmp_path / "fsc.csv")
    report.write_plot(tmp_path / "fsc.png")
    rows = list(csv.DictReader((tmp_path / "fsc.csv").open()))
    assert list(rows[0]) == ["shell", "resolution_A", "unmasked", "masked", "phase_randomised", "corrected"]
    assert len(rows) == 8 and rows[0]["resolution_A"] == "inf"
    assert float(rows[4]["resolution_A"]) == pytest.approx(16 * 1.5 / 4)
    assert float(rows[4]["corrected"]) == pytest.approx(float(report.corrected[4]), abs=1e-6)
    assert (tmp_path / "fsc.png").read_bytes()[:4] == b"\x89PNG"
    half_map_fsc(half1, half2, pixel_A=1.5).write_csv(tmp_path / "unmasked.csv")
    assert next(csv.DictReader((tmp_path / "unmasked.csv").open()))["masked"] == ""


def test_wrong_maps_and_masks_are_refused():
    with pytest.raises(InputError, match="box 8 and 10"):
        fsc(noise(8, 0), noise(10, 0))
    with pytest.raises(InputError, match="mask of box 10"):
        half_map_fsc(noise(8, 0), noise(8, 1), torch.ones(10, 10, 10), pixel_A=1.0)
    for wrong in (0.0, 7.0):
        with pytest.raises(InputError, match="expected 0 outside"):
            half_map_fsc(noise(8, 0), noise(8, 1), torch.full((8, 8, 8), wrong), pixel_A=1.0)
