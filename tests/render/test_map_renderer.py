"""Pictures that compare: one view that shows the motion, one level, one scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomorph.render.isosurface import VIEWS
from cryomorph.render.map_renderer import SIZE, MapRenderer, most_informative_view
from cryomorph.volumes.grid import rebox

BOX = 24


def blob(centre: np.ndarray, width: float = 1.6) -> torch.Tensor:
    """A Gaussian at `centre` (x, y, z) from the origin, in voxels."""
    line = torch.arange(BOX) - BOX // 2
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    return torch.exp(-squared / (2 * width**2)).float()


def basis(seed: int) -> np.ndarray:
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return q * np.sign(np.linalg.det(q))


def swinging(axes: np.ndarray) -> torch.Tensor:
    """A fixed core, and an arm that turns through 120 degrees in the plane of the first two axes."""
    angles = np.linspace(-1.05, 1.05, 7)
    core = blob(np.zeros(3), 2.5)
    return torch.stack([core + blob(7 * (np.cos(t) * axes[0] + np.sin(t) * axes[1])) for t in angles])


@pytest.mark.parametrize("seed", range(4))
def test_most_informative_view_looks_down_the_hinge(seed):
    axes = basis(seed)
    view = most_informative_view(swinging(axes))
    np.testing.assert_allclose(view @ view.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(view) == pytest.approx(1)
    # the motion's plane is the picture's; its longest extent, the arc's chord, lies to the right
    assert abs(view[2] @ axes[2]) > 0.99
    assert abs(view[0] @ axes[1]) > 0.98


def test_most_informative_view_of_one_map_shows_its_longest_side():
    bar = torch.stack([blob(np.array([0.0, t, 0.0])) for t in (-6.0, 0.0, 6.0)]).sum(0)
    assert abs(most_informative_view(bar[None])[0, 1]) > 0.99


def test_most_informative_view_of_maps_that_are_all_the_same_is_a_rotation():
    view = most_informative_view(torch.ones(3, BOX, BOX, BOX))
    np.testing.assert_allclose(view @ view.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(view) == pytest.approx(1)


@pytest.fixture(scope="module")
def painted() -> tuple[MapRenderer, torch.Tensor]:
    maps = swinging(np.eye(3))[[0, 3, 6]]
    return MapRenderer(0.5, [maps], BOX), maps


def shown(picture: np.ndarray) -> np.ndarray:
    return picture[..., 3] > 0.5


def test_pictures_are_one_for_each_map_and_differ_where_maps_do(painted):
    paint, maps = painted
    pictures = paint(maps, "maps")
    assert [picture.shape[2] for picture in pictures] == [4, 4, 4]
    assert all(max(picture.shape[:2]) == SIZE for picture in pictures)
    assert all(0.02 < shown(picture).mean() < 0.9 for picture in pictures)
    assert (shown(pictures[0]) ^ shown(pictures[2])).sum() > 0.3 * shown(pictures[0]).sum()
    np.testing.assert_array_equal(paint(maps[:1], "again")[0], pictures[0])


def test_every_surface_fits_into_its_picture(painted):
    paint, maps = painted
    for picture in paint(maps, "maps"):
        alpha = shown(picture)
        assert not alpha[0].any() and not alpha[-1].any()
        assert not alpha[:, 0].any() and not alpha[:, -1].any()


def test_maps_of_another_box_are_drawn_at_the_same_scale_and_level(painted):
    paint, maps = painted
    same, larger = paint(maps[:1], "map")[0], paint(rebox(maps[:1], 2 * BOX), "larger")[0]
    assert (shown(same) ^ shown(larger)).mean() < 0.01


def test_three_views_of_a_map(painted):
    paint, maps = painted
    views = paint.views(maps[0])
    assert views.keys() == VIEWS.keys()
    areas = [shown(picture).sum() for picture in views.values()]
    assert min(areas) > 0
