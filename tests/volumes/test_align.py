"""Maps laid upon each other: exact maps of Gaussians whose centres were turned, moved and mirrored."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cryomorph.config.errors import InputError
from cryomorph.physics.pose import Pose, random_rotations, rotation_distance_deg
from cryomorph.physics.pose_align import FrameChange
from cryomorph.simulation.images import Grid, Padded, clean_images, map_of
from cryomorph.simulation.phantoms import Cloud, eight_state, rigid
from cryomorph.volumes.align import align_maps, moved_map

PIXEL_A = 4.0


def turned(cloud: Cloud, *, seed: int, flipped: bool, reach_A: float) -> tuple[Cloud, FrameChange]:
    """A cloud in a random frame, displaced by up to `reach_A` along each axis."""
    generator = torch.Generator().manual_seed(seed)
    rotation = random_rotations(1, generator)[0].double()
    displacement = reach_A * (2 * torch.rand(3, generator=generator) - 1).double()
    position = (-1 if flipped else 1) * cloud.position @ rotation.numpy().T + displacement.numpy()
    return Cloud(position, cloud.weight), FrameChange(rotation, flipped, displacement)


def density(cloud: Cloud, box: int, pixel_A: float = PIXEL_A) -> torch.Tensor:
    return torch.from_numpy(map_of(cloud, Grid(box, pixel_A, 4.0)))


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("phantom", [rigid, eight_state])
def test_turn_shift_and_hand_of_an_exact_map_are_found(phantom, flipped):
    cloud = phantom().centred().clouds[0]
    moved, change = turned(cloud, seed=3, flipped=flipped, reach_A=20.0)
    moving, fixed = density(cloud, 64), density(moved, 64)
    found = align_maps(moving, fixed)
    assert found.flipped == flipped
    assert float(rotation_distance_deg(found.rotation[None], change.rotation[None])) < 0.1
    assert float((found.shift_voxel - change.displacement_A / PIXEL_A).norm()) < 0.02
    assert found.correlation > 0.998 and correlation(found.aligned, fixed) > 0.999
    assert found.other_hand is not None and found.other_hand.flipped != flipped
    assert found.other_hand.correlation < found.correlation - 0.1
    assert correlation(found.other_hand.aligned, fixed) == pytest.approx(found.other_hand.correlation, abs=0.02)


def test_the_frame_of_a_map_is_the_frame_of_its_poses():
    """What lays a map upon another takes its poses to the other's: the same images come out."""
    cloud = rigid().centred().clouds[0]
    moved, _ = turned(cloud, seed=4, flipped=True, reach_A=12.0)
    found = align_maps(density(cloud, 48, 5.0), density(moved, 48, 5.0))
    frame = FrameChange(found.rotation, found.flipped, found.shift_voxel * 5.0)
    pose = Pose(random_rotations(4, torch.Generator().manual_seed(5)).double(), torch.zeros(4, 2, dtype=torch.float64))
    grid, label = Grid(48, 5.0, 4.0), torch.zeros(4, dtype=torch.int64)
    ours = clean_images(Padded.of([moved]), label, grid, pose=frame.apply(pose), ctf=None)
    theirs = clean_images(Padded.of([cloud]), label, grid, pose=pose, ctf=None)
    assert float((ours - theirs).norm() / theirs.norm()) < 0.02


def test_noise_leaves_it_within_a_degree():
    cloud = rigid().centred().clouds[0]
    moved, change = turned(cloud, seed=6, flipped=True, reach_A=15.0)
    generator = torch.Generator().manual_seed(7)
    maps = [density(c, 48, 5.0) for c in (cloud, moved)]
    moving, fixed = (m + 2 * m.std() * torch.randn(m.shape, generator=generator) for m in maps)
    found = align_maps(moving, fixed)
    assert found.flipped and found.angle_deg <= 180
    assert float(rotation_distance_deg(found.rotation[None], change.rotation[None])) < 1.5
    assert float((found.shift_voxel - change.displacement_A / 5.0).norm()) < 0.2


def test_one_hand_is_kept_where_asked_and_odd_boxes_will_do():
    cloud = rigid().centred().clouds[0]
    moved, change = turned(cloud, seed=8, flipped=False, reach_A=10.0)
    # an odd box: the even one's without its first voxels, whose origin is one voxel lower
    moving, fixed = (density(c, 46, 5.5)[1:, 1:, 1:].contiguous() for c in (cloud, moved))
    assert moving.shape[0] == 45
    found = align_maps(moving, fixed, both_hands=False)
    assert found.other_hand is None and not found.flipped
    assert float(rotation_distance_deg(found.rotation[None], change.rotation[None])) < 0.2
    assert correlation(found.aligned, fixed) > 0.998


@pytest.mark.parametrize("box", [32, 33, 130])
def test_quarter_turns_whole_shifts_and_inversion_are_exact(box):
    """About z by 90 degrees x goes to y; the arrays themselves tell."""
    generator = torch.Generator().manual_seed(9)
    c, inner = box // 2, 6
    volume = torch.zeros(box, box, box)
    cube = torch.randn(2 * inner + 1, 2 * inner + 1, 2 * inner + 1, generator=generator)
    about = slice(c - inner, c + inner + 1)
    volume[about, about, about] = cube
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    shift = torch.tensor([2.0, -1.0, 3.0], dtype=torch.float64)
    expected = torch.zeros_like(volume)
    # x' = -y, y' = x: new[z, y, x] = old[z, -x, y]
    expected[about, about, about] = cube.flip(1).transpose(1, 2)
    expected = torch.roll(expected, (3, -1, 2), (0, 1, 2))
    assert torch.allclose(moved_map(volume, quarter, shift), expected, atol=1e-4)
    nothing = torch.zeros(3, dtype=torch.float64)
    inverted = torch.zeros_like(volume)
    inverted[about, about, about] = cube.flip(0, 1, 2)
    assert torch.allclose(moved_map(volume, torch.eye(3).double(), nothing, flipped=True), inverted, atol=1e-4)


def test_maps_that_cannot_be_aligned_are_refused_in_a_sentence():
    generator = torch.Generator().manual_seed(10)
    noise = torch.randn(16, 16, 16, generator=generator)
    for other, said in (
        (torch.randn(18, 18, 18, generator=generator), "box 16 and 18"),
        (torch.randn(16, 16, 18, generator=generator), "expected a cube"),
        (torch.ones(16, 16, 16), "fixed map is constant"),
        (torch.full((16, 16, 16), math.nan), "fixed map has non-finite values"),
    ):
        with pytest.raises(InputError, match=said):
            align_maps(noise, other)
    with pytest.raises(InputError, match="at least 8"):
        align_maps(noise[:6, :6, :6], noise[:6, :6, :6])
    assert np.isfinite(align_maps(noise, noise).correlation)
