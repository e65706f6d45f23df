"""What holds for every representation: one contract, run over all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.gaussian_slices import Mixture
from cryomorph.physics.pose import random_rotations, rotation_from_rotvec
from cryomorph.representations.base import Representation
from cryomorph.representations.conv_network import ConvShape
from cryomorph.representations.conv_volume import ConvVolume
from cryomorph.representations.encodings import frequency_matrix
from cryomorph.representations.field_network import FieldShape
from cryomorph.representations.gaussian_motion import CHANGES, GaussianShape
from cryomorph.representations.gaussians import Gaussians
from cryomorph.representations.linear import LinearSubspace
from cryomorph.representations.neural_field import NeuralField
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.training.distillation import Lesson, warm_start
from cryomorph.volumes.backproject import mirror
from cryomorph.volumes.grid import fourier_crop, rebox, shell_amplitude

BOX = 16
ZDIM = 2
SIGMA_PX = 1.6


def blobs(seed: int, box: int = BOX) -> Tensor:
    """An asymmetric map of eight Gaussians, compact enough for its box and band-limited within it."""
    rng = np.random.default_rng(seed)
    line = torch.arange(box) - box // 2
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    total = torch.zeros(box, box, box)
    for centre, weight in zip(rng.uniform(-3, 3, (8, 3)), rng.uniform(0.5, 2, 8), strict=True):
        squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
        total += weight * torch.exp(-squared / (2 * SIGMA_PX**2))
    return total


def linear() -> LinearSubspace:
    return LinearSubspace(torch.stack([blobs(0), 0.3 * (blobs(1) - blobs(2)), 0.3 * (blobs(3) - blobs(4))]))


def untaught() -> NeuralField:
    frequencies = frequency_matrix("gaussian", BOX, count=48)
    return NeuralField(FieldShape(BOX, ZDIM, 64, 2), frequencies, shell_amplitude(blobs(0)))


@cache
def taught() -> NeuralField:
    """A field that has learned the molecule of `linear`."""
    torch.manual_seed(0)
    field, disk = untaught(), fourier_disk(BOX)
    point = torch.randn(500, ZDIM)
    lesson = Lesson(point, torch.zeros_like(point), point, shared=True)
    flat = torch.ones(disk.size)
    options = {"steps": 400, "batch_size": 8, "seed": 0, "half_precision": False}
    warm_start(field, linear(), lesson, transfer=flat, disk=disk, after_step=lambda step, missing: None, **options)
    return field.eval()


def mixture() -> Gaussians:
    """Gaussians of which positions, amplitudes and widths all change, in parts."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    count = 12
    neutral = Mixture(
        torch.tensor(rng.uniform(-3, 3, (1, count, 3))).float(),
        torch.tensor(rng.uniform(1.3, 1.8, (1, count))).float(),
        torch.tensor(rng.uniform(20, 60, (1, count))).float(),
    )
    model = Gaussians(
        GaussianShape(BOX, ZDIM, count, changes=CHANGES, parts=3, width=16, layers=2, spread_penalty=1.0, decay=1.0),
        neutral,
        latent_scale=torch.tensor([1.0, 2.0]),
        origin=torch.tensor([0.3, -0.2]),
        free=torch.linspace(0.2, 1, count),
    )
    with torch.no_grad():
        for name, head in model.network.heads.items():
            head.weight.mul_({"positions": 10.0, "amplitudes": 60.0, "widths": 10.0}[name])
    return model.eval()


def no_mixture() -> Gaussians:
    shape = GaussianShape(BOX, ZDIM, 12, changes=CHANGES, parts=3, width=16, layers=2, spread_penalty=1.0, decay=1.0)
    return Gaussians(shape).eval()


def no_cube() -> ConvVolume:
    return ConvVolume(ConvShape(BOX, ZDIM, BOX, channels=4, hidden=32)).eval()


def cube() -> ConvVolume:
    """Voxels that a network adds to a map; those that it has not learned to make smooth are few beside it."""
    torch.manual_seed(0)
    shape = ConvShape(BOX, ZDIM, BOX, channels=4, hidden=32)
    return ConvVolume(shape, blobs(0), unit=8.0, latent_scale=torch.tensor([20.0, 30.0])).eval()


class Case(NamedTuple):
    """A representation: how one is made with a definite molecule, and how an empty one of the same shape is.

    `error` is what its slices may differ from its volume's transform between lattice points: that of interpolation, or
    of what was learned; `slope_error` the same of their derivatives.
    """

    make: Callable[[], Representation]
    empty: Callable[[], Representation]
    error: float
    slope_error: float


EVERY = {
    "linear": Case(linear, lambda: LinearSubspace(torch.zeros(ZDIM + 1, BOX, BOX, BOX)), 0.05, 0.1),
    "conv-volume": Case(cube, no_cube, 0.06, 0.1),
    "gaussians": Case(mixture, no_mixture, 0.005, 0.08),
    "neural-field": Case(lambda: copy.deepcopy(taught()), untaught, 0.09, 0.6),
}


@pytest.fixture(params=sorted(EVERY))
def case(request: pytest.FixtureRequest) -> Case:
    return EVERY[request.param]


@pytest.fixture
def points() -> tuple[Tensor, Tensor]:
    """Five latent points and rotations; the first rotation is none."""
    generator = torch.Generator().manual_seed(0)
    rotation = random_rotations(5, generator).float()
    rotation[0] = torch.eye(3)
    return torch.randn(5, ZDIM, generator=generator), rotation


def transform_at(volume: Tensor, rotation: Tensor, box: int) -> Tensor:
    """The volume's Fourier sum at `k2 @ R[:2]`, voxel by voxel: no grid, no interpolation.

    No image tells a volume's mean; the molecule's is the one with nothing around it.
    """
    volume = volume - volume[beyond(volume.shape[-1])].mean()
    line = (torch.arange(len(volume)) - len(volume) // 2).double() / len(volume)
    k3 = fourier_disk(box).frequency.double() @ rotation[:2].double()
    ez, ey, ex = (torch.exp(-2j * torch.pi * k3[:, axis, None] * line) for axis in (2, 1, 0))
    return torch.einsum("zyx,mz,my,mx->m", volume.to(torch.complex128), ez, ey, ex)


def beyond(box: int) -> Tensor:
    """Points of a centred cube of which the centre's distance is at least half its side."""
    line = torch.arange(box) - box // 2
    return line[:, None, None] ** 2 + line[:, None] ** 2 + line**2 >= (box / 2) ** 2


def closeness(a: Tensor, b: Tensor) -> float:
    a, b = torch.view_as_real(a).flatten().double(), torch.view_as_real(b.to(torch.complex128)).flatten()
    return float(a @ b / (a.norm() * b.norm()))


def test_every_representation_is_final_and_under_contract():
    tested = {type(case.make()) for case in EVERY.values()}
    assert tested == {kind for kind in Representation.__subclasses__() if kind.__module__.startswith("cryomorph.")}
    assert all(getattr(kind, "__final__", False) for kind in tested)


def test_gradients_arrive(case, points):
    """A residual's gradient with respect to z is that of small steps; parameters, where there are any, get one."""
    model, (z, rotation), disk = case.make(), points, fourier_disk(BOX)
    target = torch.view_as_real(model.slices(z + 0.5, rotation, disk)).detach()

    def loss(at: Tensor) -> Tensor:
        return (torch.view_as_real(model.slices(at, rotation, disk)) - target).square().mean()

    moved = z.clone().requires_grad_()
    loss(moved).backward()
    assert moved.grad is not None
    for row, column in ((0, 0), (3, 1)):
        step = torch.zeros_like(z)
        step[row, column] = 0.01
        with torch.no_grad():
            slope = float(loss(z + step) - loss(z - step)) / 0.02
        assert float(moved.grad[row, column]) == pytest.approx(slope, rel=0.02, abs=1e-4)
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


@pytest.mark.parametrize("pose", [False, True])
def test_tangents_along_the_latent_are_the_slopes_of_small_steps(case, points, pose):
    model, (z, rotation), disk = case.make(), points, fourier_disk(BOX)
    slices, columns = model.tangents(z, rotation, disk, pose=pose)
    torch.testing.assert_close(slices, model.slices(z, rotation, disk))
    assert columns.shape == (*slices.shape, ZDIM + 3 * pose)
    for column, dz in zip(columns.unbind(2), 0.005 * torch.eye(ZDIM), strict=False):
        slope = (model.slices(z + dz, rotation, disk) - model.slices(z - dz, rotation, disk)).detach() / 0.01
        assert closeness(column.detach(), slope) > 0.999
        assert float(column.detach().norm() / slope.norm()) == pytest.approx(1, abs=0.01)


def test_tangents_along_the_pose_are_the_slopes_of_the_volumes_transform(case, points):
    """Turns `exp(w) R` about the image's axes; between lattice points, where interpolation has no corners."""
    model, (z, rotation), disk = case.make(), points, fourier_disk(BOX)
    _, columns = model.tangents(z, rotation, disk, latent=False, pose=True)
    assert columns.shape == (5, disk.size, 3)
    for row in range(1, 5):
        volume = model.volume(z[row], BOX)
        for axis in range(3):
            turn = rotation_from_rotvec(0.01 * torch.eye(3)[axis][None])[0]
            ahead, behind = (transform_at(volume, t @ rotation[row], BOX) for t in (turn, turn.T))
            slope, found = (ahead - behind) / 0.02, columns[row, :, axis].detach()
            assert float((found - slope).abs().norm() / slope.norm()) < case.slope_error


def test_tangents_along_nothing_are_none(case, points):
    model, (z, rotation), disk = case.make(), points, fourier_disk(BOX)
    slices, columns = model.tangents(z, rotation, disk, latent=False)
    torch.testing.assert_close(slices, model.slices(z, rotation, disk))
    assert columns.shape == (5, disk.size, 0)


def test_slices_follow_a_state_that_is_loaded_later(case, points):
    model, other, (z, rotation), disk = case.make(), case.make(), points, fourier_disk(BOX)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.mul_(0.9)
    model.tangents(z, rotation, disk, pose=True)
    model.load_state_dict(other.state_dict())
    for found, expected in zip(
        model.tangents(z, rotation, disk, pose=True), other.tangents(z, rotation, disk, pose=True), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_slices_are_the_fourier_transform_of_the_volume(case, points):
    model, (z, rotation) = case.make(), points
    found = model.slices(z, rotation, fourier_disk(BOX)).detach()
    assert found.shape == (5, fourier_disk(BOX).size)
    for row in range(5):
        expected = transform_at(model.volume(z[row], BOX), rotation[row], BOX)
        assert closeness(found[row], expected) > 1 - case.error**2 / 2
        error = (found[row] - expected.to(torch.complex64)).abs().square().sum().sqrt() / expected.abs().norm()
        assert float(error) < case.error


def test_slice_without_rotation_is_the_projection_along_z(case, points):
    model, (z, _) = case.make(), points
    image = fourier_disk(BOX).to_images(model.slices(z[:1], torch.eye(3)[None], fourier_disk(BOX)))[0].detach()
    projection = model.volume(z[0], BOX).sum(0)
    projection = projection - projection.mean()
    assert np.corrcoef(image.flatten(), projection.flatten())[0, 1] > 0.998


def test_batch_of_one_is_a_row_of_many(case, points):
    model, (z, rotation), disk = case.make(), points, fourier_disk(BOX)
    many = model.slices(z, rotation, disk)
    volumes = model.volumes(z, BOX)
    for row in range(5):
        alone = model.slices(z[row : row + 1], rotation[row : row + 1], disk)[0]
        torch.testing.assert_close(alone, many[row], rtol=1e-5, atol=1e-6 * float(many.detach().abs().max()))
        torch.testing.assert_close(model.volume(z[row], BOX), volumes[row])


def test_save_and_load_are_exact(case, points, tmp_path):
    model, again, (z, rotation) = case.make(), case.empty(), points
    save_tensors(tmp_path / "model.safetensors", model.state_dict(), method="any")
    tensors, facts = load_tensors(tmp_path / "model.safetensors")
    again.load_state_dict(tensors)
    assert facts == {"method": "any"}
    assert torch.equal(again.slices(z, rotation, fourier_disk(BOX)), model.slices(z, rotation, fourier_disk(BOX)))
    assert torch.equal(again.volume(z[0], 24), model.volume(z[0], 24))


def test_the_mirror_image_fails(case, points):
    """Slices belong to the volume and to no mirror image of it, in no in-plane reflection either."""
    model, (z, rotation) = case.make(), points
    found = model.slices(z, rotation, fourier_disk(BOX)).detach()
    for row in range(1, 5):
        reflected = mirror(model.volume(z[row], BOX))
        assert closeness(found[row], transform_at(reflected, rotation[row], BOX)) < 0.98
        # the transpose of a rotation is the commonest mistake, and is no mirror image but as wrong
        assert closeness(found[row], transform_at(model.volume(z[row], BOX), rotation[row].T, BOX)) < 0.98


@pytest.mark.parametrize("box", [8, 12, 24, 32])
def test_volume_in_another_box_is_the_same_density(case, points, box):
    """Transforms keep their values within the smaller box's ball, the origin's with them."""
    model, (z, _) = case.make(), points
    given, other = model.volume(z[1], BOX), model.volume(z[1], box)
    large, small = (other, given) if box > BOX else (given, other)
    cropped = fourier_crop(large, len(small)) * (len(large) / len(small)) ** 3
    found, expected = (torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(map))) for map in (cropped, small))
    inside = ~beyond(len(small))
    torch.testing.assert_close(found[inside], expected[inside], rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("box", [24, 32])
def test_slices_of_a_larger_disk_are_zero_beyond_the_band(case, points, box):
    model, (z, rotation) = case.make(), points
    band, large = fourier_disk(BOX), fourier_disk(box)
    found = model.slices(z, rotation, large)
    torch.testing.assert_close(found[:, : band.size], model.slices(z, rotation, band))
    assert not bool(found[:, large.count(BOX / 2) :].abs().any())


@pytest.mark.parametrize("box", [12, 16, 24])
def test_a_decoder_makes_the_volumes(case, points, box):
    model, (z, _) = case.make(), points
    decode = model.decoder(box)
    for point in z:
        expected = model.volume(point, box)
        torch.testing.assert_close(decode(point), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_linear_volume_is_mean_plus_components():
    model = linear()
    mean, one, two = model.maps
    torch.testing.assert_close(model.volume(torch.tensor([2.0, -1.0]), BOX), mean + 2 * one - two)
    assert model.zdim == ZDIM
    assert model.box == BOX


@pytest.mark.parametrize("box", [8, 12, 24, 32])
def test_linear_volume_in_another_box_is_resampled(points, box):
    """Fourier cropping the larger to the smaller gives it; transforms, not voxel values, keep their scale."""
    model, (z, _) = linear(), points
    given, other = model.volume(z[1], BOX), model.volume(z[1], box)
    large, small = (other, given) if box > BOX else (given, other)
    cropped = fourier_crop(large, len(small)) * (len(large) / len(small)) ** 3
    torch.testing.assert_close(cropped, small, rtol=1e-4, atol=1e-4)
    assert float(other.sum()) == pytest.approx(float(given.sum()), rel=1e-4)


def test_rebox_keeps_the_transform():
    larger = rebox(torch.stack([blobs(0), blobs(1)]), 24)
    for row, seed in enumerate((0, 1)):
        found = transform_at(larger[row], torch.eye(3), BOX)
        assert closeness(found, transform_at(blobs(seed), torch.eye(3), BOX)) > 0.9999
