"""Total variation and LASSO against closed forms."""

import pytest
import torch

from cryomorph.objectives.smoothness import Smoothness
from cryomorph.volumes.grid import rebox

BOX = 10


def grid(side: int) -> tuple[torch.Tensor, ...]:
    return torch.meshgrid(*[torch.arange(side).float() - side // 2] * 3, indexing="ij")


def test_a_ramp_has_its_slope_everywhere():
    z, y, x = grid(BOX)
    ramp = 3 * x + 4 * y + 12 * z
    cost = Smoothness(2.0, 0.0, BOX)(torch.stack([ramp, torch.ones_like(ramp)]))
    assert float(cost[0]) == pytest.approx(2 * 13 * BOX, rel=1e-5)
    assert float(cost[1]) == pytest.approx(0, abs=1e-4)


def test_the_mean_of_values_whatever_their_sign():
    maps = torch.randn(3, BOX, BOX, BOX, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Smoothness(0.0, 0.3, BOX)(maps), 0.3 * BOX * maps.abs().mean((1, 2, 3)))


@pytest.mark.parametrize(("tv", "l1"), [(1.0, 0.0), (0.0, 1.0)])
def test_the_same_density_costs_the_same_on_a_finer_grid(tv, l1):
    """A ball well within the box: its integrals are those of any grid that resolves it."""
    z, y, x = grid(20)
    ball = torch.exp(-(x**2 + y**2 + z**2) / (2 * 3.0**2))[None]
    cost = [float(Smoothness(tv, l1, 20)(rebox(ball, side))) for side in (20, 40)]
    assert cost[0] == pytest.approx(cost[1], rel=0.1 if tv else 1e-3)


def test_noise_of_an_image_is_the_unit_of_density():
    """A voxel that adds one standard deviation of the noise to a pixel: unit noise of coefficients is 1/box a pixel."""
    maps = torch.zeros(1, BOX, BOX, BOX)
    maps[0, 5, 5, 5] = 1 / BOX
    assert float(Smoothness(0.0, 1.0, BOX)(maps)) == pytest.approx(1 / BOX**3)


def test_flat_maps_have_a_gradient_that_is_a_number():
    maps = torch.zeros(1, BOX, BOX, BOX, requires_grad=True)
    Smoothness(1.0, 0.3, BOX)(maps).sum().backward()
    assert maps.grad is not None and bool(maps.grad.isfinite().all())
