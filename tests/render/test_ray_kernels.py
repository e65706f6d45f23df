"""The loops of ray casting against scipy's interpolation and a search on a fine grid."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from cryomorph.render.ray_kernels import block_spans, falls, first_hits, sample


@pytest.fixture(scope="module")
def field() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32)


def test_samples_are_trilinear_and_go_on_beyond_the_faces(field):
    points = np.random.default_rng(1).uniform(-2, 10, (200, 3)).astype(np.float32)
    found = [sample(field, *point) for point in points]
    expected = map_coordinates(field, points[:, ::-1].T, order=1, mode="nearest")
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_falls_are_differences_of_samples(field):
    points = np.random.default_rng(2).uniform(1, 7, (50, 3)).astype(np.float32)
    for axis in range(3):
        step = np.eye(3)[axis]
        before, after = (map_coordinates(field, (points + s * step)[:, ::-1].T, order=1) for s in (-1, 1))
        np.testing.assert_allclose(falls(field, points)[:, axis], before - after, atol=1e-5)


def test_a_plane_is_hit_where_it_is():
    z = np.arange(12, dtype=np.float32)
    field = np.broadcast_to(z[:, None, None], (12, 12, 12)) * np.float32(-1)
    origin = np.array([[3.0, 4, 6], [5, 5, 6]], dtype=np.float32)
    span = np.array([[5, -5], [5, 3]], np.float32)
    towards = np.array([0, 0, 1], dtype=np.float32)
    # rays come from high z: -z reaches -4.3 at z = 4.3; the second ray ends before
    met = first_hits(np.ascontiguousarray(field), -4.3, origin, towards, span)
    assert met[0] == pytest.approx(4.3 - 6, abs=1e-5)
    assert np.isnan(met[1])
    inside = first_hits(np.ascontiguousarray(field), -100.0, origin, towards, span)
    assert inside.tolist() == [5, 5]


def test_rays_know_between_which_depths_blocks_are_occupied():
    blocks = np.zeros((4, 4, 4), dtype=bool)
    blocks[1, 2, 3] = True  # z from 3.5 to 7.5, y from 7.5 to 11.5, x from 11.5 to 15.5
    origin = np.array([[13, 9, 8], [13, 5, 8]], dtype=np.float32)
    depth = np.arange(8, -8.5, -1, dtype=np.float32)
    start, stop = block_spans(blocks, 4, origin, np.array([0, 0, 1], np.float32), depth)
    assert (start[0], stop[0]) == (-1, -4)
    assert (start[1], stop[1]) == (-np.inf, np.inf)
