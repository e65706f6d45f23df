"""Grids on SO(3): how many, how even, how near to every rotation, and cells that lie within their parents."""

import math

import healpix
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.physics.pose import random_rotations, rotation_distance_deg
from cryomorph.physics.so3_grid import (
    _angles,
    _frame,
    _nside,
    children,
    grid_rotations,
    grid_size,
    grid_spacing_deg,
)

DRAWN = random_rotations(2000, torch.Generator().manual_seed(0))


def nearest_cell(rotation: torch.Tensor, level: int) -> torch.Tensor:
    """The number of the cell that each rotation lies in: the inverse of `grid_rotations`."""
    given = rotation.double().cpu().numpy()
    x, y, z = given[:, 2].T
    direction = np.asarray(healpix.vec2pix(_nside(level), x, y, z, nest=True), dtype=np.int64)
    first, second = _frame(np.stack([x, y, z], axis=-1), direction, level)
    psi = np.arctan2((given[:, 0] * second).sum(-1), (given[:, 0] * first).sum(-1))
    angle = np.floor((psi % (2 * np.pi)) * (_angles(level) / (2 * np.pi))).astype(np.int64) % _angles(level)
    return torch.from_numpy(direction * _angles(level) + angle).to(rotation.device)


def quaternions(rotation):
    return torch.from_numpy(Rotation.from_matrix(rotation.numpy()).as_quat()).float()


def nearest_deg(rotation, grid):
    """Distance to the nearest of a grid's rotations, by scipy's quaternions."""
    overlap = (quaternions(rotation) @ quaternions(grid).T).abs().max(1).values
    return torch.rad2deg(2 * torch.arccos(overlap.clamp(max=1)))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_576_rotations_and_eight_times_as_many_at_each_level(level):
    found = grid_rotations(level)
    assert len(found) == grid_size(level) == 576 * 8**level
    torch.testing.assert_close(found @ found.mT, torch.eye(3).expand_as(found), atol=1e-6, rtol=0)
    assert bool((torch.linalg.det(found) > 0.999).all())


@pytest.mark.parametrize(("level", "covering"), [(0, 27.0), (1, 13.3), (2, 6.6)])
def test_every_rotation_is_near_one_of_the_grid(level, covering):
    """No n rotations can be nearer, on average, than n balls of a like share of SO(3): `3/4 (6 pi / n)^(1/3)`."""
    found = nearest_deg(DRAWN, grid_rotations(level))
    assert float(found.max()) < covering
    bound = math.degrees(0.75 * (6 * math.pi / grid_size(level)) ** (1 / 3))
    assert 0.98 * bound < float(found.mean()) < 1.05 * bound


def test_a_sum_over_the_grid_is_an_integral_over_so3():
    """Characters of the irreducible representations, `sin((2l + 1) a / 2) / sin(a / 2)`, have mean zero."""
    about = grid_rotations(1) @ DRAWN[0]
    angle = torch.deg2rad(rotation_distance_deg(about, torch.eye(3).expand_as(about))).double().clamp(min=1e-6)
    for order in (1, 2, 3):
        character = torch.sin((2 * order + 1) * angle / 2) / torch.sin(angle / 2)
        assert abs(float(character.mean())) < 0.02


@pytest.mark.parametrize("level", [0, 1, 3])
def test_cells_know_their_centres_their_children_and_their_parents(level):
    number = torch.randperm(grid_size(level), generator=torch.Generator().manual_seed(1))[:500]
    assert torch.equal(nearest_cell(grid_rotations(level, number), level), number)
    below = children(number, level)
    assert below.shape == (500, 8)
    centres = grid_rotations(level + 1, below.flatten())
    assert torch.equal(nearest_cell(centres, level).view(500, 8), number[:, None].expand(-1, 8))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_rotation_s_cell_lies_in_the_cell_of_the_level_above(level):
    below = children(nearest_cell(DRAWN, level), level)
    assert bool((nearest_cell(DRAWN, level + 1)[:, None] == below).any(1).all())


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_cells_are_small_everywhere_at_the_poles_too(level):
    near_pole = torch.from_numpy(
        Rotation.from_euler("ZYZ", [[40.0 * i, s, 17.0] for i in range(9) for s in (2, 178)], degrees=True).as_matrix()
    ).float()
    given = torch.cat([DRAWN, near_pole, near_pole.mT])
    centre = grid_rotations(level, nearest_cell(given, level))
    assert float(rotation_distance_deg(centre, given).max()) < 1.35 * grid_spacing_deg(level)


def test_the_deepest_level_of_the_paper_is_a_degree_apart():
    assert grid_size(5) == 18_874_368
    assert math.isclose(grid_spacing_deg(5), 0.9375)
    found = grid_rotations(5, nearest_cell(DRAWN, 5))
    assert float(rotation_distance_deg(found, DRAWN).mean()) < 0.6


def test_levels_beyond_the_last_are_a_mistake():
    for level in (-1, 9):
        with pytest.raises(ValueError, match=f"level {level}: expected 0 to 8"):
            grid_size(level)


def test_any_shape_of_numbers_is_taken():
    number = torch.arange(24).view(2, 3, 4)
    np.testing.assert_array_equal(grid_rotations(0, number)[1, 2, 3], grid_rotations(0)[23])
