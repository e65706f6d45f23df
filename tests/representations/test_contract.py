"""What holds for every representation: one contract, run over all of them."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.gaussian_slices import Mixture
from cryomorph.representations.base import Representation
from cryomorph.representations.conv_network import ConvShape
from cryomorph.representations.conv_volume import ConvVolume
from cryomorph.representations.encodings import frequency_matrix
from cryomorph.representations.field_network import FieldShape
from cryomorph.representations.gaussian_motion import CHANGES, GaussianShape
from cryomorph.representations.gaussians import Gaussians
from cryomorph.representations.linear import LinearSubspace
from cryomorph.representations.neural_field import NeuralField
from cryomorph.training.distillation import DistillationTargets, distil
from cryomorph.volumes.grid import fourier_crop, rebox, shell_amplitude
from fixtures.representation_contract import (
    BOX,
    ZDIM,
    Case,
    RepresentationContract,
    closeness,
    points_and_rotations,
    transform_at,
)

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
    targets = DistillationTargets(point, torch.zeros_like(point), point, same_space=True)
    flat = torch.ones(disk.size)
    options = {"steps": 400, "batch_size": 8, "seed": 0, "half_precision": False}
    distil(field, linear(), targets, transfer=flat, disk=disk, after_step=lambda step, missing: None, **options)
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


EVERY = {
    "linear": Case(linear, lambda: LinearSubspace(torch.zeros(ZDIM + 1, BOX, BOX, BOX)), 0.05, 0.1),
    "conv-volume": Case(cube, no_cube, 0.06, 0.1),
    "gaussians": Case(mixture, no_mixture, 0.005, 0.08),
    "neural-field": Case(lambda: copy.deepcopy(taught()), untaught, 0.09, 0.6),
}


@pytest.fixture(params=sorted(EVERY))
def case(request: pytest.FixtureRequest) -> Case:
    return EVERY[request.param]


def test_every_representation_is_final_and_under_contract():
    tested = {type(case.make()) for case in EVERY.values()}
    assert tested == {kind for kind in Representation.__subclasses__() if kind.__module__.startswith("cryomorph.")}
    assert all(getattr(kind, "__final__", False) for kind in tested)


class TestContract(RepresentationContract):
    """Each of our representations."""


def test_linear_volume_is_mean_plus_components():
    model = linear()
    mean, one, two = model.maps
    torch.testing.assert_close(model.volume(torch.tensor([2.0, -1.0]), BOX), mean + 2 * one - two)
    assert model.zdim == ZDIM
    assert model.box == BOX


@pytest.mark.parametrize("box", [8, 12, 24, 32])
def test_linear_volume_in_another_box_is_resampled(box):
    """Fourier cropping the larger to the smaller gives it; transforms, not voxel values, keep their scale."""
    model, (z, _) = linear(), points_and_rotations()
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
