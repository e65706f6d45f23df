"""Projections of Gaussians against their closed form in double precision, and against the voxel projector."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cryomorph.physics import gaussian_slices
from cryomorph.physics.disk import FourierDisk, fourier_disk
from cryomorph.physics.gaussian_slices import Mixture, gaussian_map, lattice_of, project_channels, project_gaussians
from cryomorph.physics.pose import random_rotations
from cryomorph.physics.rings import ring_correlation
from cryomorph.representations.linear import LinearSubspace


def cloud(images: int, count: int, box: int, *, widths: int = 1, seed: int = 0) -> Mixture:
    generator = torch.Generator().manual_seed(seed)
    position = torch.randn(images, count, 3, generator=generator) * box / 8
    width = torch.rand(widths, count, generator=generator) + 0.8
    return Mixture(position, width, torch.rand(images, count, generator=generator) + 0.1)


def closed_form(mixture: Mixture, disk: FourierDisk) -> Tensor:
    """`sum_j a_j exp(-2 pi^2 sigma_j^2 k^2 - 2 pi i k . p_j)`, a whole image for each Gaussian, in double precision."""
    k = disk.frequency.double() / disk.box
    phase = mixture.position[..., :2].double() @ k.mT
    falloff = torch.exp(-2 * (torch.pi * mixture.width.double()[..., None] * k.norm(dim=1)) ** 2)
    return (mixture.amplitude.double()[..., None] * falloff * torch.exp(-2j * torch.pi * phase)).sum(1)


@pytest.mark.parametrize(("box", "band"), [(4, None), (16, None), (32, 9.0), (34, 12.5), (128, None)])
@pytest.mark.parametrize("widths", [1, 3])
def test_slices_are_the_closed_form_to_a_hundred_thousandth(box, band, widths):
    disk, given = fourier_disk(box, band), cloud(3, 9, box, widths=widths)
    found, expected = project_gaussians(given, disk), closed_form(given, disk)
    assert found.shape == (3, disk.size) and found.dtype == torch.complex64
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("widths", [1, 3])
@pytest.mark.parametrize("band", [None, 5.0])
def test_gradients_are_those_of_the_closed_form(widths, band):
    disk, given = fourier_disk(16, band), cloud(3, 5, 16, widths=widths)
    given = Mixture(*(part.requires_grad_() for part in given))
    target = torch.randn(3, disk.size, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))

    def slopes(image: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((image * target.conj()).real.sum(), given)

    for found, expected in zip(slopes(project_gaussians(given, disk)), slopes(closed_form(given, disk)), strict=True):
        assert found.shape == expected.shape
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_a_mirror_image_is_another_one():
    """Against the molecule's mirror image in any plane, and against the transposed rotation."""
    disk, given = fourier_disk(32), cloud(1, 6, 32)
    rotation = random_rotations(1, torch.Generator().manual_seed(3))
    seen = project_gaussians(given.turned(rotation), disk)
    reflected = given._replace(position=given.position * torch.tensor([1.0, 1.0, -1.0]))
    for other in (reflected.turned(rotation), given.turned(rotation.mT)):
        image = project_gaussians(other, disk)
        agreement = (seen * image.conj()).real.sum() / (seen.norm() * image.norm())
        assert float(agreement) < 0.95


def test_images_agree_with_the_voxel_projector():
    """The map of the same Gaussians, sliced by interpolation: FRC above 0.99 to 0.8 Nyquist."""
    disk, given = fourier_disk(32), cloud(1, 20, 24)
    maps = LinearSubspace(gaussian_map(given, 32)[None])
    rotation = random_rotations(8, torch.Generator().manual_seed(0))
    found = project_gaussians(Mixture(*(part.expand(8, *part.shape[1:]) for part in given)).turned(rotation), disk)
    curve = ring_correlation(found, maps.slices(torch.zeros(8, 0), rotation, disk), disk.shell, rings=17)
    assert float(curve[:, 1:13].min()) > 0.99


def test_a_row_does_not_depend_on_the_others():
    disk, given = fourier_disk(32), cloud(7, 30, 32)
    whole = project_gaussians(given, disk)
    for row in (0, 3, 6):
        alone = Mixture(given.position[row : row + 1], given.width, given.amplitude[row : row + 1])
        torch.testing.assert_close(project_gaussians(alone, disk)[0], whole[row], rtol=1e-5, atol=1e-5)


def test_channels_are_projections_with_other_amplitudes():
    disk, given = fourier_disk(16), cloud(2, 5, 16)
    amplitude = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2))
    found = project_channels(given, amplitude, disk)
    for channel in range(3):
        expected = closed_form(given._replace(amplitude=amplitude[:, channel]), disk).to(torch.complex64)
        torch.testing.assert_close(found[:, channel], expected, rtol=1e-4, atol=1e-5)


def test_blocks_are_the_adjoint_of_coefficients():
    lattice = lattice_of(fourier_disk(12), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randn(2, 12, 12, generator=generator)
    image = torch.randn(2, fourier_disk(12).size, dtype=torch.complex64, generator=generator)
    one = (lattice.coefficients(blocks) * image.conj()).real.sum()
    torch.testing.assert_close(one, (blocks * lattice.blocks(image)).sum())


def test_gradients_are_exact_under_autocast():
    """Half precision has no digits for an image; the projection never takes it."""
    disk, given = fourier_disk(16), cloud(2, 5, 16)
    amplitude = given.amplitude.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = project_gaussians(given._replace(amplitude=amplitude), disk)
    error = (found.detach() - closed_form(given, disk)).abs().max()
    assert float(error) < 1e-5 * float(found.detach().abs().max())
    found.abs().square().sum().backward()
    assert amplitude.grad is not None and amplitude.grad.dtype == torch.float32


def test_a_map_is_the_density_of_its_gaussians():
    """Compact, smooth Gaussians sampled at the voxels, mean and all."""
    position = torch.tensor([[[3.0, -1.5, 0.25], [-2.0, 2.0, 4.0]]])
    given = Mixture(position, torch.tensor([[1.4, 1.8]]), torch.tensor([[2.0, 3.0]]))
    line = torch.arange(24).double() - 12
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    expected = torch.zeros(24, 24, 24, dtype=torch.float64)
    for (px, py, pz), sigma, mass in zip(position[0].tolist(), (1.4, 1.8), (2.0, 3.0), strict=True):
        squared = (x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2
        expected += mass * torch.exp(-squared / (2 * sigma**2)) / (2 * torch.pi * sigma**2) ** 1.5
    found = gaussian_map(given, 24)
    assert float((found - expected).abs().max()) < 2e-4 * float(expected.max())
    assert float(found.sum()) == pytest.approx(5.0, rel=1e-5)


def test_a_mixture_in_other_pixels_is_the_same_molecule():
    """The same extent in a larger box: coefficients keep their values."""
    given = cloud(2, 6, 16)
    small, large = fourier_disk(16), fourier_disk(32).within(8)
    torch.testing.assert_close(
        project_gaussians(given.scaled(2.0), large), project_gaussians(given, small), rtol=1e-4, atol=1e-5
    )
    assert given.scaled(1.0) is given


def test_chunks_of_images_are_the_images(monkeypatch):
    """Memory is bounded by a few images at once: the same to the last digits."""
    disk, given = fourier_disk(16), cloud(7, 5, 16, widths=7)
    whole = project_gaussians(given, disk)
    monkeypatch.setattr(gaussian_slices, "TABLE_NUMBERS", 2 * 2 * 8 * 5)
    torch.testing.assert_close(project_gaussians(given, disk), whole, rtol=1e-5, atol=1e-6)
