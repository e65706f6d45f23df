"""The likelihood against numpy's transforms and Hartley residuals of whole images."""

import numpy as np
import pytest
import torch

from cryomorph.objectives.likelihood import best_scale, negative_log_likelihood
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import fourier_disk

BOX, N = 16, 5


def images(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, BOX, BOX))


def transform(image: np.ndarray) -> np.ndarray:
    """Centred; entry `[ky + box/2, kx + box/2]`."""
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=(-2, -1))), axes=(-2, -1))


def radius() -> np.ndarray:
    line = np.arange(BOX) - BOX // 2
    return np.hypot(line[:, None], line)


def transfer() -> np.ndarray:
    """One real transfer function for each image, the same at `k` and `-k`, of both signs."""
    return np.stack([np.cos(0.3 * (n + 1) * radius()) / (n + 1) for n in range(N)])


def half_plane(whole: np.ndarray) -> np.ndarray:
    kx, ky = fourier_disk(BOX).frequency.numpy().T
    return whole[:, ky + BOX // 2, kx + BOX // 2]


def batch_of(image: np.ndarray, ctf: np.ndarray) -> tuple[Batch, torch.Tensor]:
    coefficients = torch.from_numpy(half_plane(transform(image))).to(torch.complex64)
    return Batch(torch.arange(N), coefficients, torch.from_numpy(half_plane(ctf)).float(), torch.eye(3).expand(N, 3, 3))


def slices_of(map: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(half_plane(transform(map))).to(torch.complex64)


def test_it_is_half_the_squared_hartley_residual_over_the_whole_disk():
    """METHODS 0: `H = Re - Im` of each transform, all of `0 < |k| < box/2`, both half-planes."""
    image, model, ctf = images(0), images(1), transfer()
    difference = transform(image) - ctf * transform(model)
    hartley = difference.real - difference.imag
    inside = (radius() > 0) & (radius() < BOX / 2)
    expected = 0.5 * (hartley[:, inside] ** 2).sum(1)
    found = negative_log_likelihood(batch_of(image, ctf), slices_of(model))
    assert found.shape == (N,)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_cryodrgn_s_mean_hartley_square_is_twice_it_over_the_coefficients():
    """Hence the factor of one half between the papers' beta and the weight of the KL term (METHODS 0)."""
    image, model, ctf = images(2), images(3), transfer()
    difference = transform(image) - ctf * transform(model)
    inside = (radius() > 0) & (radius() < BOX / 2)
    mean = ((difference.real - difference.imag)[:, inside] ** 2).mean(1)
    size = 2 * fourier_disk(BOX).size
    assert inside.sum() == size
    np.testing.assert_allclose(2 * negative_log_likelihood(batch_of(image, ctf), slices_of(model)) / size, mean, 1e-5)


def test_it_is_the_log_density_of_complex_normal_noise():
    """Variance 1 for each complex coefficient: one half for its real and for its imaginary part."""
    image, model, ctf = images(4) / BOX, images(5) / BOX, transfer()
    batch, slices = batch_of(image, ctf), slices_of(model)
    normal = torch.distributions.Normal(torch.view_as_real(batch.ctf * slices), 0.5**0.5)
    log_density = normal.log_prob(torch.view_as_real(batch.image)).sum((1, 2))
    constant = batch.image.shape[1] * np.log(np.pi)
    torch.testing.assert_close(negative_log_likelihood(batch, slices), -log_density - constant, rtol=1e-4, atol=1e-3)


def test_unit_noise_costs_one_for_each_coefficient():
    """White images of variance `1 / box^2` have coefficients of variance 1: the truth costs as many as there are."""
    n = 400
    noise = np.random.default_rng(6).normal(size=(n, BOX, BOX)) / BOX
    coefficients = torch.from_numpy(half_plane(transform(noise))).to(torch.complex64)
    size = fourier_disk(BOX).size
    batch = Batch(torch.arange(n), coefficients, torch.ones(n, size), torch.eye(3).expand(n, 3, 3))
    cost = negative_log_likelihood(batch, torch.zeros_like(coefficients))
    assert float(cost.mean()) == pytest.approx(size, rel=0.02)
    assert float(cost.var()) == pytest.approx(size, rel=0.25)


def test_a_perfect_model_costs_nothing():
    model, ctf = images(7), transfer()
    batch, slices = batch_of(model, ctf), slices_of(model)
    fitting = Batch(batch.index, batch.ctf * slices, batch.ctf, batch.rotation)
    assert not bool(negative_log_likelihood(fitting, slices).any())


def test_the_best_scale_is_least_squares():
    """The ratio is the slope of a regression through the origin, by numpy over real and imaginary parts."""
    image, model, ctf = images(8) + 2 * images(9), images(9), transfer()
    batch, slices = batch_of(image, ctf), slices_of(model)
    upper, lower = best_scale(batch, slices)
    for n in range(N):
        fitted = (half_plane(ctf)[n] * half_plane(transform(model))[n]).astype(complex)
        given = half_plane(transform(image))[n]
        column = np.concatenate([fitted.real, fitted.imag])[:, None]
        slope = np.linalg.lstsq(column, np.concatenate([given.real, given.imag]), rcond=None)[0][0]
        assert float(upper[n] / lower[n]) == pytest.approx(slope, rel=1e-4)


def test_the_best_scale_of_a_scaled_model_is_the_scale():
    model, ctf = images(10), transfer()
    batch, slices = batch_of(model, ctf), slices_of(model)
    scaled = Batch(batch.index, -1.7 * batch.ctf * slices, batch.ctf, batch.rotation)
    upper, lower = best_scale(scaled, slices)
    torch.testing.assert_close(upper / lower, torch.full((N,), -1.7))
