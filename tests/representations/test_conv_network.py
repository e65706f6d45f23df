"""The decoder network: its sizes, the layers written out, no checkerboard; the volume's mask, base and chunks."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations
from cryomorph.representations import conv_volume
from cryomorph.representations.conv_network import ConvNetwork, ConvShape, cube_side
from cryomorph.representations.conv_volume import ConvVolume


def network_of(side: int, *, zdim: int = 3) -> ConvNetwork:
    torch.manual_seed(0)
    return ConvNetwork(ConvShape(side, zdim, side, channels=2, hidden=8))


@pytest.mark.parametrize("side", [8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48])
def test_a_cube_of_every_side_that_can_be_made(side):
    assert cube_side(side) == side
    assert network_of(side)(torch.randn(2, 3)).shape == (2, side, side, side)


@pytest.mark.parametrize(
    ("asked", "made"), [(2, 8), (9, 10), (13, 14), (18, 20), (36, 40), (66, 80), (100, 112), (250, 256)]
)
def test_other_sides_are_rounded_up(asked, made):
    assert cube_side(asked) == made


def test_a_side_that_cannot_be_made_is_a_mistake():
    with pytest.raises(ValueError, match="cube of side 18 is not possible: expected 20"):
        network_of(18)


def test_at_256_it_is_the_paper_s():
    """2048 channels of one voxel, eight transposed convolutions: two of kernel 2, then of kernel 4."""
    with torch.device("meta"):
        network = ConvNetwork(ConvShape(256, 8, 256))
        found = network(torch.zeros(1, 8))
    assert found.shape == (1, 256, 256, 256)
    assert network.kernels == [2, 2, 4, 4, 4, 4, 4, 4]
    assert [len(weight) for weight in network.weight] == [2048, 1024, 512, 256, 128, 64, 32, 16]


def test_the_layers_written_out():
    network, z = network_of(12), torch.randn(2, 3)
    state = network.state_dict()

    def bent(values):
        return torch.where(values > 0, values, 0.2 * values)

    hidden = bent(
        bent(z @ state["input.weight"].T + state["input.bias"]) @ state["hidden.weight"].T + state["hidden.bias"]
    )
    found = hidden[:, :, None, None, None]
    for number, edge in enumerate((3, 2, 4)):
        kernel = state[f"weight.{number}"].unflatten(1, (-1, edge, edge, edge))
        after = found.new_zeros(2, kernel.shape[1], *[(found.shape[-1] - 1) * (1 + (number > 0)) + edge] * 3)
        # each voxel spreads its kernel, at twice its place; what lies beyond the new cube is cut off
        for place in np.ndindex(*found.shape[2:]):
            low = [(1 + (number > 0)) * p for p in place]
            spread = torch.einsum("bi,iozyx->bozyx", found[(..., *place)], kernel)
            after[(..., *(slice(p, p + edge) for p in low))] += spread
        margin = (edge - 2) // 2 if number else 0
        side = after.shape[-1]
        after = after[..., margin : side - margin, margin : side - margin, margin : side - margin]
        found = after + state[f"bias.{number}"][:, None, None, None]
        found = bent(found) if number < 2 else found
    torch.testing.assert_close(network(z), found[:, 0])


def test_no_parity_of_voxels_is_favoured_at_first():
    """A layer that sees the same everywhere says the same everywhere but at the borders."""
    network = network_of(32)
    for matrix, edge in zip(network.weight, network.kernels, strict=True):
        if edge == 4:
            kernel = matrix.detach().unflatten(1, (-1, 4, 4, 4))
            said = functional.conv_transpose3d(torch.ones(1, len(kernel), 5, 5, 5), kernel, stride=2, padding=1)
            inside = said[:, :, 2:-2, 2:-2, 2:-2]
            torch.testing.assert_close(inside, inside[:, :, :1, :1, :1].expand_as(inside))


def test_an_untaught_network_adds_little_and_of_its_unit():
    output = network_of(32)(torch.randn(50, 3)).detach()
    assert 0.02 < float(output.std()) < 0.3


def test_outside_of_the_sphere_there_is_nothing():
    torch.manual_seed(0)
    model = ConvVolume(ConvShape(16, 2, 16, channels=2, hidden=8), torch.ones(16, 16, 16))
    line = torch.arange(16) - 8
    radius = (line[:, None, None] ** 2 + line[:, None] ** 2 + line**2).sqrt()
    grid = model.grids(torch.zeros(1, 2))[0]
    assert not bool(grid[radius >= 8].any()) and bool((grid[radius < 7] != 0).all())


def test_many_images_without_gradients_are_taken_in_parts(monkeypatch):
    torch.manual_seed(0)
    model = ConvVolume(ConvShape(16, 2, 16, channels=2, hidden=8)).eval()
    z, rotation, disk = torch.randn(7, 2), random_rotations(7, torch.Generator().manual_seed(0)), fourier_disk(16)
    whole = model.slices(z, rotation, disk).detach()
    sizes, views = [], ConvVolume.views

    def counted(self, grids, rotation, disk):
        sizes.append(len(grids))
        return views(self, grids, rotation, disk)

    monkeypatch.setattr(conv_volume, "VOXELS", 3 * 32**3)
    monkeypatch.setattr(ConvVolume, "views", counted)
    with torch.no_grad():
        torch.testing.assert_close(model.slices(z, rotation, disk), whole)
    assert sizes == [3, 3, 1] and math.isfinite(float(whole.abs().sum()))
