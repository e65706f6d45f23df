"""Slices of many volumes against the paper's projector in real space, the other slicing, a closed form, the adjoint."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations
from cryomorph.physics.projection import project_volumes
from cryomorph.physics.rings import ring_correlation
from cryomorph.physics.slicing import locate_slices, padded_grid

BOX = 32


def volumes(count: int, box: int = BOX, *, seed: int = 0) -> Tensor:
    """Asymmetric, as sharp as interpolation in real space can still follow, and within the inscribed sphere."""
    rng = np.random.default_rng(seed)
    line = np.arange(box) - box // 2
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    total = np.zeros((count, box, box, box))
    for number in range(count):
        for centre, width in zip(rng.uniform(-box / 5, box / 5, (20, 3)), rng.uniform(0.8, 1.6, 20), strict=True):
            squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
            total[number] += rng.uniform(0.5, 2) * np.exp(-squared / (2 * width**2))
    return torch.tensor(total, dtype=torch.float32)


def turns(b: int, v: int) -> Tensor:
    return random_rotations(b * v, torch.Generator().manual_seed(0)).float().view(b, v, 3, 3)


def summed_in_real_space(volume: Tensor, rotation: Tensor, *, order: int) -> Tensor:
    """The published projector: the volume turned by interpolation, then summed along z (Eqs. 3 and 4)."""
    line = np.arange(len(volume)) - len(volume) // 2
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    # the value at p of the turned volume is that at r with p = R r
    at = np.stack([x, y, z], -1) @ rotation.double().numpy()
    place = np.moveaxis(at[..., ::-1] + len(volume) // 2, -1, 0)
    return torch.tensor(
        ndimage.map_coordinates(volume.double().numpy(), place, order=order).sum(0), dtype=torch.float32
    )


@pytest.mark.parametrize("order", [1, 3])
def test_it_agrees_with_the_projector_in_real_space(order):
    """FRC above 0.99 to 0.8 Nyquist; the mirror image and the transposed rotation do not.

    With the paper's trilinear interpolation, on average over images; by a spline, whose own error is less, in each.
    """
    volume, rotation, disk = volumes(1), turns(1, 6), fourier_disk(BOX)
    found = project_volumes(volume[:, None], rotation, disk)[0, ..., 0]
    expected = disk.from_images(torch.stack([summed_in_real_space(volume[0], r, order=order) for r in rotation[0]]))
    rings = ring_correlation(found, expected, disk.shell, rings=BOX // 2 + 1)[:, 1 : int(0.8 * BOX / 2) + 1]
    assert float(rings.mean(0).min()) > 0.99
    assert order == 1 or float(rings.min()) > 0.995
    for wrong in (rotation.mT, rotation * torch.tensor([1.0, 1.0, -1.0])):
        other = project_volumes(volume[:, None], wrong, disk)[0, ..., 0]
        assert float(ring_correlation(other, expected, disk.shell, rings=BOX // 2 + 1)[:, 5].mean()) < 0.9


@pytest.mark.parametrize("box", [8, 12, 16])
def test_it_is_the_slicing_that_all_others_use(box):
    """Each column of each row, in each orientation, is a slice of that volume's own grid."""
    given, rotation, disk = volumes(6, box).view(3, 2, box, box, box), turns(3, 2), fourier_disk(box)
    found = project_volumes(given, rotation, disk)
    assert found.shape == (3, 2, disk.size, 2)
    for b in range(3):
        grid = padded_grid(box).from_volumes(given[b])
        expected = locate_slices(padded_grid(box), disk.frequency, rotation[b]).extract(grid)
        torch.testing.assert_close(found[b], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_its_gradient_is_its_adjoint():
    """`Re <P u, g> = <u, P* g>` for any u and g."""
    generator = torch.Generator().manual_seed(0)
    disk, rotation = fourier_disk(12), turns(3, 2)
    u, v = (torch.randn(3, 2, 12, 12, 12, generator=generator) for _ in range(2))
    g = torch.randn(3, 2, disk.size, 2, dtype=torch.complex64, generator=generator)
    v.requires_grad_()
    (project_volumes(v, rotation, disk).conj() * g).sum().real.backward()
    assert v.grad is not None
    assert float((u * v.grad).sum()) == pytest.approx(
        float((project_volumes(u, rotation, disk).conj() * g).sum().real), rel=1e-4
    )


def test_a_cube_of_another_side_is_the_same_molecule_below_its_band():
    """A coarse cube in a fine disk: its own coefficients, and nothing beyond."""
    coarse, fine = fourier_disk(16), fourier_disk(BOX)
    given, rotation = volumes(1, 16)[:, None], turns(1, 1)
    found = project_volumes(given, rotation, fine)[0, 0, :, 0]
    torch.testing.assert_close(found[: coarse.size], project_volumes(given, rotation, coarse)[0, 0, :, 0])
    assert not bool(found[coarse.size :].abs().any())


def test_a_ball_is_a_gaussian_in_every_direction():
    line = torch.arange(BOX) - BOX // 2
    ball = torch.exp(-(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2) / (2 * 2.0**2))
    disk = fourier_disk(BOX)
    found = project_volumes(ball[None, None], turns(1, 3), disk)[0, ..., 0]
    expected = (2 * math.pi * 4) ** 1.5 * torch.exp(-2 * math.pi**2 * 4 * (disk.radius / BOX) ** 2)
    assert float((found - expected).abs().max()) < 4e-3 * float(expected.max())
