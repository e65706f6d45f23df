"""Pose offsets: what a batch is moved by is what is written down as its refined pose."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.encoders.poses import PoseTable
from cryomorph.particles.metadata import read_particles
from cryomorph.particles.prepare import prepare
from cryomorph.physics.pose import Pose, random_rotations
from fixtures.stacks import write_stack

N, BOX, PIXEL_A = 12, 16, 2.5
INDEX = torch.tensor([9, 0, 4])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poses")
    write_stack(folder / "p.mrcs", np.random.default_rng(0).normal(size=(N, BOX, BOX)).astype(np.float32), PIXEL_A)
    generator = torch.Generator().manual_seed(0)
    pose = Pose(random_rotations(N, generator), 4 * torch.randn(N, 2, generator=generator))
    return prepare(replace(read_particles(folder / "p.mrcs"), pose=pose), folder / "store", invert="no")


@pytest.fixture
def table():
    table = PoseTable(N)
    table.offset[:] = torch.randn(N, 5, generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [0.2] * 3 + [1.5] * 2
    )
    return table


def test_a_new_table_moves_nothing(store):
    given = store.batch(INDEX)
    moved = PoseTable(N)(given, store.disk)
    torch.testing.assert_close(moved.image, given.image)
    torch.testing.assert_close(moved.rotation, given.rotation)
    pose = store.require_pose()
    same = PoseTable(N).corrected(pose, PIXEL_A)
    torch.testing.assert_close(same.rotation, pose.rotation)
    assert torch.equal(same.shift_A, pose.shift_A)


def test_a_corrected_pose_is_turned_about_the_image_s_axes_and_shifted_in_angstrom(store, table):
    pose = store.require_pose()
    found = table.corrected(pose, PIXEL_A)
    turns = Rotation.from_rotvec(table.offset[:, :3].double().numpy()).as_matrix()
    np.testing.assert_allclose(found.rotation, turns @ pose.rotation.double().numpy(), atol=1e-6)
    np.testing.assert_allclose(found.shift_A, pose.shift_A + PIXEL_A * table.offset[:, 3:], atol=1e-5)


@pytest.mark.parametrize("radius", [5, 8])
def test_a_moved_batch_is_the_batch_of_the_store_with_corrected_poses(store, table, radius):
    """What the model sees while it trains is what a reader of the refined poses gets."""
    disk = store.disk.within(radius)
    moved = table(store.batch(INDEX, disk.size), disk)
    again = store.with_pose(table.corrected(store.require_pose(), PIXEL_A)).batch(INDEX, disk.size)
    torch.testing.assert_close(moved.image, again.image, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(moved.rotation, again.rotation, atol=1e-6, rtol=0)
    assert torch.equal(moved.ctf, again.ctf) and torch.equal(moved.index, again.index)


def test_each_particle_gets_its_own_row(store, table):
    assert torch.equal(table.of(store.batch(INDEX)), table.offset[[9, 0, 4]])


def test_other_rows_touch_nothing(store, table):
    before = table(store.batch(INDEX), store.disk)
    table.offset[[1, 2, 3, 5, 6, 7, 8, 10, 11]] += 1
    after = table(store.batch(INDEX), store.disk)
    assert torch.equal(before.image, after.image) and torch.equal(before.rotation, after.rotation)


def test_offsets_are_saved_and_are_no_weights(table):
    assert not list(table.parameters())
    again = PoseTable(N)
    again.load_state_dict(table.state_dict())
    assert torch.equal(again.offset, table.offset)
