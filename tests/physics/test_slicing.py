"""Slices against the closed-form transform of Gaussians, and insertion against the transpose of extraction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomorph.physics import slicing
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import Pose, random_rotations, rotation_from_euler
from cryomorph.physics.slicing import PaddedGrid, Slices, locate_slices, padded_grid
from cryomorph.simulation.images import Grid, Padded, clean_images, map_of
from cryomorph.simulation.phantoms import Cloud
from cryomorph.volumes.grid import fourier_crop

BOX, SIGMA = 32, 1.5  # voxels of 1 A
DISK = fourier_disk(BOX)
ROTATION = random_rotations(6, torch.Generator().manual_seed(0))
SIX = Cloud(np.random.default_rng(0).normal(0, 3.5, (6, 3)), np.array([2.0, 1.5, 1.2, 1.0, 0.8, 0.6]))


def volume_of(cloud: Cloud, box: int = BOX) -> torch.Tensor:
    return torch.from_numpy(map_of(cloud, Grid(box, 1.0, SIGMA)))[None]


def analytic_slices(cloud: Cloud, rotation: torch.Tensor) -> np.ndarray:
    """Transform of the turned cloud, `p = R r`, on the disk: no grid, no interpolation."""
    k2 = DISK.frequency.double().numpy() / BOX
    envelope = np.exp(-2 * np.pi**2 * SIGMA**2 * (k2**2).sum(1))
    turned = np.einsum("bij,pj->bpi", rotation.double().numpy(), cloud.position)
    return np.exp(-2j * np.pi * np.einsum("mi,bpi->bmp", k2, turned[:, :, :2])) @ cloud.weight * envelope


def slices_of(volume: torch.Tensor, rotation: torch.Tensor, padding: int = 2) -> np.ndarray:
    grid = PaddedGrid(BOX, padding)
    return locate_slices(grid, DISK.frequency, rotation).extract(grid.from_volumes(volume))[..., 0].numpy()


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b.conj()).sum(1).real / norm


def random_points(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=generator)


def inner(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.to(torch.complex128) * b.to(torch.complex128).conj()).sum().real)


# --- values -----------------------------------------------------------------------------------------------------------


def test_slices_of_a_turned_phantom_are_its_analytic_transform():
    """Trilinear interpolation errs by the square of the step: 1.5 % at padding two, a quarter of it at four."""
    expected = analytic_slices(SIX, ROTATION)
    error = {padding: relative(slices_of(volume_of(SIX), ROTATION, padding), expected) for padding in (1, 2, 4, 8)}
    assert error[2] < 0.015 and error[8] < 1e-3
    for coarse, fine in ((1, 2), (2, 4), (4, 8)):
        assert 3.5 < error[coarse] / error[fine] < 5.5
    assert correlation(slices_of(volume_of(SIX), ROTATION), expected).min() > 0.9995


def test_a_centred_gaussian_is_a_gaussian_whatever_its_rotation():
    ball = Cloud(np.zeros((1, 3)), np.ones(1))
    found = slices_of(volume_of(ball), ROTATION)
    expected = np.exp(-2 * np.pi**2 * SIGMA**2 * ((DISK.radius.double().numpy() / BOX) ** 2))
    assert np.abs(found - expected).max() < 4e-3
    assert np.abs(found.imag).max() < 1e-5  # centred: no phase at all


@pytest.mark.parametrize("euler_deg", [(0, 0, 0), (90, 0, 0), (0, 90, 0), (0, 0, 90), (90, 90, 0), (0, 180, 90)])
def test_on_grid_points_the_closed_form_holds_to_1e_5(euler_deg):
    """Right angles put every sample on a grid point: with the gridding correction undone nothing is interpolated."""
    rotation = rotation_from_euler(torch.tensor([euler_deg], dtype=torch.float32))
    volume = volume_of(SIX) * padded_grid(BOX).attenuation
    error = np.abs(slices_of(volume, rotation) - analytic_slices(SIX, rotation))
    assert error.max() < 1e-5 * SIX.weight.sum()


def test_without_rotation_a_slice_is_the_transform_of_the_sum_along_z():
    volume = torch.randn(1, BOX, BOX, BOX, generator=torch.Generator().manual_seed(1))
    found = slices_of(volume * padded_grid(BOX).attenuation, torch.eye(3)[None])
    image = np.fft.ifftshift(volume[0].double().numpy().sum(0))
    kx, ky = DISK.frequency.numpy().T
    expected = np.fft.fft2(image)[ky, kx]
    assert np.abs(found[0] - expected).max() < 1e-5 * np.abs(expected).max()


def test_slices_match_projected_images():
    """The simulator's images share nothing with the slices but the conventions."""
    pose = Pose(ROTATION, torch.zeros(len(ROTATION), 2))
    label = torch.zeros(len(ROTATION), dtype=torch.long)
    images = clean_images(Padded.of([SIX]), label, Grid(BOX, 1.0, SIGMA), pose=pose, ctf=None)
    expected = DISK.from_images(images).numpy()
    assert correlation(slices_of(volume_of(SIX), ROTATION), expected).min() > 0.9995


def test_the_hand_is_kept():
    """An asymmetric phantom of six Gaussians matches its projections; its mirror image does not."""
    expected = analytic_slices(SIX, ROTATION)
    for axis in range(3):
        sign = np.ones(3)
        sign[axis] = -1
        mirrored = Cloud(SIX.position * sign, SIX.weight)
        assert correlation(slices_of(volume_of(mirrored), ROTATION), expected).mean() < 0.95
    assert correlation(slices_of(volume_of(SIX), ROTATION.mT.contiguous()), expected).mean() < 0.95


@pytest.mark.parametrize("euler_deg", [(0, 0, 180), (0, 180, 0), (180, 180, 0), (37, 180, 0)])
def test_the_centre_stays_where_it_is(euler_deg):
    """METHODS 0: a delta at the origin, turned by half a turn, moves by less than 0.01 pixel."""
    delta = torch.zeros(1, BOX, BOX, BOX)
    delta[0, BOX // 2, BOX // 2, BOX // 2] = 1
    rotation = rotation_from_euler(torch.tensor([euler_deg], dtype=torch.float32))
    image = DISK.to_images(torch.from_numpy(slices_of(delta, rotation)))[0].clamp(min=0)
    index = torch.arange(BOX) - BOX // 2
    near = image[BOX // 2 - 1 : BOX // 2 + 2, BOX // 2 - 1 : BOX // 2 + 2]
    assert image.argmax() == (BOX // 2) * BOX + BOX // 2
    for axis in (0, 1):
        moved = (near.sum(1 - axis) * index[BOX // 2 - 1 : BOX // 2 + 2]).sum() / near.sum()
        assert abs(float(moved)) < 0.01


@pytest.mark.parametrize("small", [20, 24])
def test_a_smaller_grid_serves_the_band(small):
    """A grid holds the images' coefficients whatever its volume's box: the voxels are fewer and weigh more."""
    cropped = fourier_crop(volume_of(SIX), small) * (BOX / small) ** 3
    grid = padded_grid(small)
    band = DISK.frequency[: DISK.count(0.8 * small / 2)]
    found = locate_slices(grid, band, ROTATION).extract(grid.from_volumes(cropped))[..., 0].numpy()
    assert relative(found, slices_of(volume_of(SIX), ROTATION)[:, : len(band)]) < 2e-3


def test_several_volumes_are_columns():
    grid = padded_grid(16)
    volumes = torch.randn(3, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    slices = locate_slices(grid, fourier_disk(16).frequency, ROTATION)
    together = slices.extract(grid.from_volumes(volumes))
    for column in range(3):
        torch.testing.assert_close(
            together[..., column], slices.extract(grid.from_volumes(volumes[column : column + 1]))[..., 0]
        )


def test_volumes_come_back_from_their_grid():
    volume = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    grid = padded_grid(16)
    expected = volume / grid.attenuation.square()  # the correction is applied before and after: it is self-adjoint
    torch.testing.assert_close(grid.to_volumes(grid.from_volumes(volume)), expected, atol=1e-4, rtol=1e-4)


# --- adjoint ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> tuple[PaddedGrid, Slices, torch.Generator]:
    grid = padded_grid(16)
    rotation = torch.cat([torch.eye(3)[None], ROTATION])
    slices = locate_slices(grid, fourier_disk(16).frequency, rotation)
    return grid, slices, torch.Generator().manual_seed(3)


def test_insert_is_the_transpose_of_extract_on_the_half_grid(small):
    """`Re <A g, x> = Re <g, A* x>`, sums over the stored half-grid and over the disk, before `fold`."""
    grid, slices, generator = small
    g, x = random_points(generator, grid.rows, 2), random_points(generator, *slices.shape, 2)
    back, _ = slices.insert(x, torch.zeros(*slices.shape, 1))
    assert inner(slices.extract(g), x) == pytest.approx(inner(g, back), rel=1e-4)


def test_slices_of_volumes_have_an_exact_adjoint(small):
    """`Re <S v, x> = edge^3 / 2 <v, to_volumes(fold(insert x))>`: the half-plane stands for half of the transform."""
    grid, slices, generator = small
    for _ in range(3):
        v = torch.randn(1, 16, 16, 16, generator=generator)
        x = random_points(generator, *slices.shape, 1)
        forward = inner(slices.extract(grid.from_volumes(v)), x)
        back = grid.to_volumes(grid.fold(slices.insert(x, torch.zeros(*slices.shape, 1))[0]))
        assert forward == pytest.approx(grid.edge**3 / 2 * float((v.double() * back.double()).sum()), rel=1e-4)


def test_folded_sums_are_those_of_both_half_planes(small):
    """Inserting every coefficient and its Friedel mate gives a Hermitian plane `kx = 0`: what `fold` completes."""
    grid, slices, generator = small
    x, w = random_points(generator, *slices.shape, 1), torch.rand(*slices.shape, 1, generator=generator)
    found = [grid.fold(part).view(grid.edge, grid.edge, grid.half) for part in slices.insert(x, w)]
    both = torch.cat([fourier_disk(16).frequency, -fourier_disk(16).frequency])
    rotation = torch.cat([torch.eye(3)[None], ROTATION])
    k3 = ((both.float() * 2) @ rotation[:, :2]).flatten(0, 1).double().numpy()  # x, y, z
    value = torch.cat([x, x.conj()], dim=1).flatten().numpy().astype(np.complex128)
    weight = torch.cat([w, w], dim=1).flatten().double().numpy()
    low = np.floor(k3).astype(int)
    dense = np.zeros((2, *(grid.edge,) * 3), np.complex128)
    for corner in np.ndindex(2, 2, 2):
        share = np.where(np.array(corner), k3 - low, 1 - (k3 - low)).prod(1)
        kx, ky, kz = ((low + corner) % grid.edge).T
        for sums, values in zip(dense, (value, weight), strict=True):
            np.add.at(sums, (kz, ky, kx), share * values)
    for sums, one in zip(dense, found, strict=True):
        np.testing.assert_allclose(one[..., :-1].numpy(), sums[..., : grid.half - 1], atol=2e-4)


def test_every_weight_lands_somewhere(small):
    _, slices, _ = small
    torch.testing.assert_close(slices.weight.sum(1), torch.ones(len(slices.weight)))
    assert slices.weight.min() >= 0 and slices.row.min() >= 0 and slices.row.max() < slices.grid.rows


@pytest.mark.parametrize("threads", [1, 2])
def test_sparse_product_and_index_add_agree(small, monkeypatch, threads):
    grid, slices, generator = small
    columns = torch.randn(len(slices.row), 4, generator=generator)
    dense = torch.zeros(len(slices.row), grid.rows)
    dense.scatter_add_(1, slices.row.long(), slices.weight)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.testing.assert_close(slices._scatter(columns), dense.T @ columns, atol=1e-4, rtol=1e-4)

    class Elsewhere(torch.Tensor):
        """A tensor that says that it is on another device than the CPU."""

        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return torch.device("meta")

    added = torch.zeros(grid.rows, 4)
    monkeypatch.setattr(Elsewhere, "new_zeros", lambda self, *shape: added, raising=False)
    slices._scatter(columns.as_subclass(Elsewhere))
    torch.testing.assert_close(added, dense.T @ columns, atol=1e-4, rtol=1e-4)


def test_gradients_flow_to_the_grid(small):
    """Autograd against a finite difference of `sum |A g - x|^2`, exact for a quadratic but for rounding."""
    grid, slices, generator = small
    g, direction = (random_points(generator, grid.rows, 1) for _ in range(2))
    x = random_points(generator, *slices.shape, 1)

    def loss(point: torch.Tensor) -> torch.Tensor:
        return (slices.extract(point) - x).abs().square().sum()

    leaf = g.clone().requires_grad_()
    loss(leaf).backward()
    slope = (float(loss(g + 0.5 * direction)) - float(loss(g - 0.5 * direction))) / 1.0
    assert leaf.grad is not None
    assert slope == pytest.approx(inner(leaf.grad, direction), rel=2e-3)


def test_grids_are_made_once():
    assert padded_grid(16) is slicing.padded_grid(16)
    grid = padded_grid(16)
    assert (grid.edge, grid.half, grid.rows) == (32, 17, 32 * 32 * 17)
    assert float(grid.radius[1]) == 0.5 and float(grid.radius.max()) == pytest.approx(8 * 3**0.5)
