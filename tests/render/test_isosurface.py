"""Isosurface pictures against spheres, whose silhouette, normals and place are known."""

import math
import time

import numpy as np
import pytest
import torch

from cryomorph.config.errors import InputError
from cryomorph.render.isosurface import VIEWS, common_level, draw_surface, view_rotation
from cryomorph.render.raycast import cast, interpolate, normals, prepare_surface, surface_radius
from cryomorph.volumes.grid import resize


def blob(box, centre=(0.0, 0.0, 0.0), sigma=5.0):
    axis = np.arange(box) - box // 2
    x, y, z = (np.exp(-((axis - c) ** 2) / (2 * sigma**2)) for c in centre)
    return (z[:, None, None] * y[:, None] * x).astype(np.float32)


def ball_level(sigma, radius):
    """The level at which a Gaussian's surface is a sphere of that radius."""
    return math.exp(-(radius**2) / (2 * sigma**2))


def draw(volume, level, **options):
    return draw_surface(prepare_surface(volume, level), **options)


def centroid(picture):
    """Where a picture's content lies from its middle, right and up, in parts of its side."""
    alpha = picture[..., 3]
    row, column = np.indices(alpha.shape)
    side = len(alpha)
    right = (alpha * (column + 0.5)).sum() / alpha.sum() / side - 0.5
    return right, 0.5 - (alpha * (row + 0.5)).sum() / alpha.sum() / side


@pytest.mark.parametrize("box", [48, 33, 144])
def test_silhouette_of_a_sphere(box):
    radius = box / 5
    volume = blob(box, sigma=box / 6)
    picture = draw(volume, ball_level(box / 6, radius), size=120)
    assert picture.shape == (120, 120, 4) and picture.dtype == np.float32
    assert picture.min() >= 0 and picture.max() <= 1
    area = picture[..., 3].sum() * (box / 120) ** 2
    assert area == pytest.approx(math.pi * radius**2, rel=0.01)


def test_sphere_has_no_holes_and_a_smooth_rim():
    picture = draw(blob(32, sigma=6.0), ball_level(6.0, 8.0), size=200)
    alpha = picture[..., 3]
    row, column = np.indices(alpha.shape) - 99.5
    distance = np.hypot(row, column) * 32 / 200
    assert (alpha[distance < 7.7] == 1).all() and (alpha[distance > 8.3] == 0).all()
    assert ((alpha > 0.1) & (alpha < 0.9)).sum() > 100


@pytest.mark.parametrize("view", list(VIEWS))
def test_points_lie_on_the_sphere_and_normals_point_outwards(view):
    centre = np.array([4.0, -3.0, 2.0])
    volume = blob(40, tuple(centre), sigma=6.0)
    surface = prepare_surface(volume, ball_level(6.0, 7.0))
    rotation = view_rotation(view)
    _, point = cast(surface, rotation, 80, pixel=surface.fine * 40 / 80)
    from_centre = ((point - surface.centre) / surface.fine).numpy() - centre
    assert np.allclose(np.linalg.norm(from_centre, axis=1), 7.0, atol=0.02)
    normal = normals(surface, point)
    cosine = (normal.numpy() * from_centre).sum(1) / 7.0
    assert cosine.min() > 0.999
    # what is seen first faces the viewer
    assert (normal @ rotation[2]).min() > -0.05


@pytest.mark.parametrize(
    ("view", "axis", "expected"),
    [
        ("front", 0, (1, 0)), ("front", 1, (0, 1)), ("front", 2, (0, 0)),
        ("side", 0, (0, 0)), ("side", 1, (0, 1)), ("side", 2, (-1, 0)),
        ("top", 0, (1, 0)), ("top", 1, (0, 0)), ("top", 2, (0, -1)),
    ],
)  # fmt: skip
def test_where_the_axes_point(view, axis, expected):
    centre = np.zeros(3)
    centre[axis] = 8.0
    picture = draw(blob(40, tuple(centre), sigma=3.0), 0.3, view=view, size=60)
    assert centroid(picture) == pytest.approx(np.array(expected) * 8 / 40, abs=0.005)


@pytest.mark.parametrize(("view", "towards"), [("front", (0, 0, 9)), ("side", (9, 0, 0)), ("top", (0, 9, 0))])
def test_the_nearer_blob_hides_the_farther(view, towards):
    near, far = blob(40, towards, 3.0), blob(40, tuple(-c for c in towards), 3.0)
    picture = draw(near + far, 0.3, view=view, size=40, colour_map=near - far, colour_limit=0.2)
    red, _, blue, alpha = picture[20, 20]
    assert alpha == 1 and red > blue + 0.2
    picture = draw(near + far, 0.3, view=view, size=40, colour_map=far - near, colour_limit=0.2)
    red, _, blue, _ = picture[20, 20]
    assert blue > red + 0.2


def test_a_matrix_turns_the_map_as_p_equals_r_r():
    turn = np.radians(30)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    picture = draw(blob(40, (10.0, 0.0, 0.0), 3.0), 0.3, view=rotation, size=80)
    assert centroid(picture) == pytest.approx(np.array([np.cos(turn), np.sin(turn)]) * 10 / 40, abs=0.005)


@pytest.mark.parametrize(("box", "size"), [(24, 128), (33, 128), (33, 129), (48, 130), (160, 160), (170, 160)])
def test_a_finer_grid_is_that_of_the_fourier_transform(box, size):
    volume = torch.tensor(np.random.default_rng(0).normal(size=(box,) * 3).astype(np.float32))
    assert torch.allclose(interpolate(volume, size), resize(volume, size), atol=1e-4)


def test_a_surface_reaches_as_far_as_its_sphere():
    volume, level = blob(48, sigma=8.0), ball_level(8.0, 11.0)
    assert surface_radius(volume, level) == pytest.approx(11.0, abs=0.6)
    assert surface_radius(volume, level) == prepare_surface(volume, level).radius


def test_extent_zooms():
    volume, level = blob(40, sigma=4.0), ball_level(4.0, 5.0)
    whole, half = (draw(volume, level, size=100, extent=e)[..., 3].sum() for e in (40.0, 20.0))
    assert half == pytest.approx(4 * whole, rel=0.01)


def test_arrays_and_tensors_give_the_same_picture():
    volume = blob(24)
    assert np.array_equal(draw(volume, 0.5, size=30), draw(torch.tensor(volume), 0.5, size=30))


def test_specks_are_dropped_and_pieces_kept():
    molecule = blob(48, (-8.0, 0.0, 0.0), 4.0) + 0.8 * blob(48, (10.0, 0.0, 0.0), 3.0)
    speck = blob(48, (0.0, 16.0, 0.0), 1.0)
    clean, dusty = (draw(volume, 0.5, size=96) for volume in (molecule, molecule + speck))
    assert np.abs(clean - dusty).max() < 0.02
    piece = blob(48, (0.0, 16.0, 0.0), 2.0)
    assert draw(molecule + piece, 0.5, size=96)[..., 3].sum() > clean[..., 3].sum() + 10


def test_nothing_above_the_level_is_an_empty_picture():
    picture = draw(blob(24), 2.0, size=20)
    assert (picture[..., 3] == 0).all()


def test_a_surface_that_the_box_cuts_is_closed():
    picture = draw(np.ones((24, 24, 24), np.float32), 0.5, size=60)
    assert picture[..., 3].mean() > 0.9


def test_common_level_is_midway_and_above_the_noise():
    axis = np.arange(48) - 24
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    ball = (radius < 10).astype(np.float32)
    assert common_level([2 * ball, 2 * ball, 2 * ball + 0.2]) == pytest.approx(1.0, abs=0.05)
    generator = np.random.default_rng(0)
    noisy = [ball + generator.normal(0, 0.25, ball.shape).astype(np.float32) for _ in range(3)]
    level = common_level(noisy)
    assert 0.5 < level < 0.8
    assert common_level(np.stack(noisy)) == level
    # masked to a sphere, and so exactly 0 elsewhere
    assert common_level([volume * (radius < 16) for volume in noisy]) == pytest.approx(level, abs=0.1)


def test_a_picture_is_quick():
    surface = blob(64, sigma=10.0)
    draw(surface, 0.5)
    took = []
    for _ in range(5):
        start = time.process_time()
        draw(surface, 0.5)
        took.append(time.process_time() - start)
    assert min(took) < 1.0  # about 0.2 s of processor time; the rest is for slow and busy machines


def test_wrong_requests_are_refused():
    with pytest.raises(InputError, match="front, side, top"):
        draw(blob(24), 0.5, view="back")
    with pytest.raises(InputError, match="not a rotation"):
        draw(blob(24), 0.5, view=np.ones((3, 3)))
    with pytest.raises(InputError, match="not finite"):
        draw(np.full((8, 8, 8), np.nan, np.float32), 0.5)
    with pytest.raises(InputError, match="cube"):
        draw(np.zeros((8, 8, 9), np.float32), 0.5)
    with pytest.raises(InputError, match="no maps"):
        common_level([])
