"""The frequencies of the encodings against the formulas of METHODS 3, term by term."""

import math

import numpy as np
import pytest
import torch

from cryomorph.representations.encodings import frequency_matrix

BOXES = [8, 16, 30]


def geometric(box: int) -> list[float]:
    """`D pi (2/D)^(i/(D/2-1))`, i = 0..D/2-1."""
    return [box * math.pi * (2 / box) ** (i / (box / 2 - 1)) for i in range(box // 2)]


def along_each_axis(line: list[float]) -> np.ndarray:
    """Columns with one entry that is not zero: all frequencies along x, then y, then z."""
    matrix = np.zeros((3, 3 * len(line)))
    for axis in range(3):
        for i, value in enumerate(line):
            matrix[axis, axis * len(line) + i] = value
    return matrix


@pytest.mark.parametrize("box", BOXES)
def test_geometric_is_the_paper_s_formula_along_each_axis(box):
    np.testing.assert_allclose(frequency_matrix("geometric", box), along_each_axis(geometric(box)), rtol=1e-6)


@pytest.mark.parametrize("box", BOXES)
def test_geometric_runs_from_the_finest_wavelength_to_the_box(box):
    """One radian per unit of `k3` is a wave in real space: from `D/2` pixels from the centre to one pixel."""
    frequencies = frequency_matrix("geometric", box).amax(0)[: box // 2] / (2 * math.pi)
    assert float(frequencies[0]) == pytest.approx(box / 2)
    assert float(frequencies[-1]) == pytest.approx(1)
    assert (frequencies.diff() < 0).all()


@pytest.mark.parametrize("box", BOXES)
def test_geometric_low_has_wavelengths_longer_by_two_pi(box):
    expected = along_each_axis([value / (2 * math.pi) for value in geometric(box)])
    np.testing.assert_allclose(frequency_matrix("geometric-low", box), expected, rtol=1e-6)


@pytest.mark.parametrize(("box", "kept"), [(8, 3), (20, 9), (64, 28)])
def test_iclr_leaves_out_the_highest_tenth(box, kept):
    expected = along_each_axis(sorted(geometric(box), reverse=True)[box // 2 - kept :])
    np.testing.assert_allclose(frequency_matrix("iclr", box), expected, rtol=1e-6)


def test_gaussian_is_normal_times_sigma_times_half_the_box():
    matrix = frequency_matrix("gaussian", 64, sigma=0.5, count=20_000)
    assert matrix.shape == (3, 20_000)
    assert float(matrix.mean()) == pytest.approx(0, abs=0.2)
    np.testing.assert_allclose(matrix.std(1), 16, rtol=0.02)
    np.testing.assert_allclose(np.cov(matrix / 16), np.eye(3), atol=0.03)
    quarter, half, most = np.quantile(np.abs(matrix / 16), [0.25, 0.5, 0.95])  # of |N(0, 1)|: scipy's halfnorm.ppf
    np.testing.assert_allclose([quarter, half, most], [0.31864, 0.67449, 1.95996], rtol=0.02)
    torch.testing.assert_close(
        frequency_matrix("gaussian", 64, sigma=1.5, count=9, seed=4) / 3,
        frequency_matrix("gaussian", 64, sigma=0.5, count=9, seed=4),
    )


def test_gaussian_has_as_many_columns_as_geometric_unless_said():
    assert frequency_matrix("gaussian", 16).shape == frequency_matrix("geometric", 16).shape == (3, 24)
    assert frequency_matrix("gaussian", 16, count=7).shape == (3, 7)


def test_gaussian_is_decided_by_its_seed_alone():
    first = frequency_matrix("gaussian", 16, seed=3)
    torch.manual_seed(99)
    assert torch.equal(frequency_matrix("gaussian", 16, seed=3), first)
    assert not torch.equal(frequency_matrix("gaussian", 16, seed=4), first)
