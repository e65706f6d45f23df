"""The Fourier disk against numpy's FFT and Hartley's transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryomorph.config.errors import InputError
from cryomorph.physics.disk import FourierDisk, fourier_disk

BOXES = [4, 8, 18, 32]


def images(n: int, box: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, box, box, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def centred_fft(image: np.ndarray) -> np.ndarray:
    """The convention itself: `fftshift . fft . ifftshift`, entry `[ky + box/2, kx + box/2]`."""
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=(-2, -1))), axes=(-2, -1))


@pytest.mark.parametrize("box", BOXES)
def test_coefficients_are_those_of_the_centred_fft(box):
    disk = FourierDisk(box)
    x = images(3, box)
    kx, ky = disk.frequency.numpy().T
    expected = centred_fft(x.numpy())[:, ky + box // 2, kx + box // 2]
    np.testing.assert_allclose(disk.from_images(x).numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("box", BOXES)
def test_disk_is_half_of_the_plane_without_its_origin(box):
    frequency = {tuple(k) for k in FourierDisk(box).frequency.tolist()}
    mirror = {(-kx, -ky) for kx, ky in frequency}
    half = range(-box // 2, box // 2 + 1)
    whole = {(kx, ky) for kx in half for ky in half if 0 < kx * kx + ky * ky < (box // 2) ** 2}
    assert not frequency & mirror
    assert frequency | mirror == whole
    assert all(ky > 0 or (ky == 0 and kx > 0) for kx, ky in frequency)


def test_disk_holds_about_pi_eighths_of_the_box_squared():
    assert FourierDisk(256).size == pytest.approx(np.pi / 8 * 256**2, rel=0.01)


@settings(deadline=None, derandomize=True)
@given(box=st.integers(2, 24).map(lambda half: 2 * half), radius=st.floats(0, 40))
def test_a_band_limit_is_a_prefix(box, radius):
    disk = fourier_disk(box)
    inside = disk.frequency.double().norm(dim=1) < radius
    assert inside.sum() == disk.count(radius)
    assert inside[: disk.count(radius)].all()
    assert (disk.radius.diff() >= 0).all()


@settings(deadline=None, derandomize=True)
@given(box=st.integers(2, 24).map(lambda half: 2 * half), radius=st.floats(0, 40))
def test_within_is_a_prefix(box, radius):
    """The same coefficients in the same order as `count` of the whole disk says, and so are its images."""
    whole, part = fourier_disk(box), fourier_disk(box).within(radius)
    assert part.size == whole.count(radius)
    assert torch.equal(part.frequency, whole.frequency[: part.size])
    assert torch.equal(part.radius, whole.radius[: part.size])
    assert torch.equal(part.shell, whole.shell[: part.size])
    assert part.box == box and part.count(radius) == part.size


@settings(deadline=None, derandomize=True)
@given(first=st.floats(0, 12), second=st.floats(0, 12))
def test_within_never_widens(first, second):
    """Within one band and then within another is within the smaller, whichever came first."""
    disk = fourier_disk(20)
    narrow = disk.within(min(first, second))
    assert torch.equal(disk.within(first).within(second).frequency, narrow.frequency)
    assert torch.equal(disk.within(second).within(first).frequency, narrow.frequency)


def test_a_disk_with_a_band_takes_images_to_its_prefix_and_back():
    whole, part, x = fourier_disk(20), fourier_disk(20).within(6.5), images(2, 20)
    torch.testing.assert_close(part.from_images(x), whole.from_images(x)[:, : part.size])
    torch.testing.assert_close(
        part.to_images(part.from_images(x)), whole.to_images(whole.from_images(x)[:, : part.size])
    )


def test_order_is_total():
    """Equal radii are sorted by ky, then kx: a store means the same on every machine."""
    frequency = FourierDisk(32).frequency.tolist()
    assert frequency == sorted(frequency, key=lambda k: (k[0] ** 2 + k[1] ** 2, k[1], k[0]))
    assert frequency[:2] == [[1, 0], [0, 1]]


def test_shell_is_the_nearest_integer_radius():
    disk = FourierDisk(16)
    np.testing.assert_array_equal(disk.shell.numpy(), np.rint(np.hypot(*disk.frequency.numpy().T)))
    assert (int(disk.shell.min()), int(disk.shell.max())) == (1, 8)


@pytest.mark.parametrize("box", BOXES)
def test_to_images_inverts_from_images(box):
    disk = FourierDisk(box)
    x = disk.to_images(disk.from_images(images(2, box)))  # within the band from here on
    assert x.shape == (2, box, box)
    assert float(x.mean()) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(disk.to_images(disk.from_images(x)), x, atol=1e-12, rtol=0)


def test_to_images_of_a_prefix_is_a_low_pass():
    disk = FourierDisk(24)
    x = images(1, 24)
    m = disk.count(6.0)
    k = np.hypot(*np.meshgrid(np.arange(-12, 12), np.arange(-12, 12)))
    kept = centred_fft(x.numpy()) * ((k > 0) & (k < 6))
    expected = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kept, axes=(-2, -1))).real, axes=(-2, -1))
    np.testing.assert_allclose(disk.to_images(disk.from_images(x)[:, :m]).numpy(), expected, atol=1e-12)


def test_parseval():
    """The image's energy without its mean is twice the half-plane's, over the number of pixels."""
    disk = FourierDisk(20)
    x = disk.to_images(disk.from_images(images(3, 20)))
    coefficients = disk.from_images(x)
    torch.testing.assert_close((x**2).sum((1, 2)), 2 * (coefficients.abs() ** 2).sum(1) / 20**2)


def test_likelihood_equals_half_the_hartley_residual():
    """METHODS 0: the half-plane's `sum |X - Y|^2` is half of `sum (H_X - H_Y)^2` over the whole disk, `H = Re - Im`."""
    box = 16
    x, y = images(1, box, 1)[0], images(1, box, 2)[0]
    k = np.hypot(*np.meshgrid(np.arange(-8, 8), np.arange(-8, 8)))
    difference = centred_fft(x.numpy()) - centred_fft(y.numpy())
    hartley = ((difference.real - difference.imag)[(k > 0) & (k < 8)] ** 2).sum()
    disk = FourierDisk(box)
    half_plane = ((disk.from_images(x) - disk.from_images(y)).abs() ** 2).sum()
    assert float(half_plane) == pytest.approx(0.5 * hartley, rel=1e-12)


def test_a_delta_at_the_origin_has_flat_phase():
    x = torch.zeros(12, 12)
    x[6, 6] = 1
    torch.testing.assert_close(FourierDisk(12).from_images(x), torch.ones(FourierDisk(12).size, dtype=torch.complex64))


@pytest.mark.parametrize(("given_box", "box"), [(32, 16), (24, 12), (30, 12), (16, 16)])
def test_larger_images_are_cropped_in_fourier_space(given_box, box):
    """A smooth image keeps its values: to aliasing, the cropped one samples the same function on a coarser grid."""

    def gaussian(size: int) -> np.ndarray:
        r = (np.arange(size) - size // 2) * (given_box / size)  # in pixels of the larger box
        x, y = np.meshgrid(r - 1.0, r + 0.75)
        sigma = 1.0 * given_box / box
        return np.exp(-(x**2 + y**2) / (2 * sigma**2))

    disk = FourierDisk(box)
    large = disk.from_images(torch.from_numpy(gaussian(given_box)))
    small = disk.from_images(torch.from_numpy(gaussian(box)))
    np.testing.assert_allclose(large.numpy(), small.numpy(), atol=0.02 * float(small.abs().max()))
    kx, ky = disk.frequency.numpy().T
    cropped = centred_fft(gaussian(given_box))[ky + given_box // 2, kx + given_box // 2] * (box / given_box) ** 2
    np.testing.assert_allclose(large.numpy(), cropped, atol=1e-10)


@pytest.mark.parametrize("box", [5, 31, 2, 0])
def test_an_odd_or_tiny_box_is_refused(box):
    with pytest.raises(InputError, match=f"box {box}: expected an even box"):
        FourierDisk(box)


@pytest.mark.parametrize("shape", [(8, 10), (9, 9), (6, 6)])
def test_images_that_do_not_fit_are_refused(shape):
    with pytest.raises(InputError, match="expected square, even, at least 8"):
        FourierDisk(8).from_images(torch.zeros(shape))


def test_fourier_disk_is_made_once():
    assert fourier_disk(10) is fourier_disk(10)
