"""Point groups against RELION's axes and scipy's rotations, and what symmetry means for a projection."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.config.errors import InputError
from cryomorph.physics.pose import Pose, euler_from_rotation, random_rotations
from cryomorph.physics.symmetry import expand_pose, point_group

ORDER = {"C1": 1, "C3": 3, "C7": 7, "C99": 99, "D1": 2, "D2": 4, "D7": 14, "T": 12, "O": 24}
ORDER |= dict.fromkeys(("I", "I1", "I2", "I3", "I4"), 60)
# axes that generate each group in RELION
AXES = {
    "C7": [(7, (0, 0, 1))],
    "D7": [(7, (0, 0, 1)), (2, (1, 0, 0))],
    "D2": [(2, (0, 0, 1)), (2, (1, 0, 0))],
    "T": [(3, (0, 0, 1)), (2, (0, 0.816496, 0.577350))],
    "O": [(3, (1, 1, 1)), (4, (0, 0, 1))],
    "I1": [(2, (1, 0, 0)), (5, (0.8506508, 0, -0.5257311)), (3, (0.9341724, 0.3568221, 0))],
    "I2": [(2, (0, 0, 1)), (5, (0.5257311, 0, 0.8506508)), (3, (0, 0.3568221, 0.9341724))],
    "I3": [(2, (-0.5257311, 0, 0.8506508)), (5, (0, 0, 1)), (3, (-0.4911235, 0.3568221, 0.7946545))],
    "I4": [(2, (0.5257311, 0, 0.8506508)), (5, (0.8944272, 0, 0.4472136)), (3, (0.4911235, 0.3568221, 0.7946545))],
}
AXES["I"] = AXES["I2"]


def place_in(group, rotation):
    """Distance of a rotation matrix to the nearest element of a group, and which that is."""
    apart = np.abs(group - rotation).max(axis=(-2, -1))
    return apart.min(), apart.argmin()


@pytest.mark.parametrize("name", ORDER)
def test_a_point_group_is_a_group(name):
    group = point_group(name).numpy()
    assert len(group) == ORDER[name]
    np.testing.assert_allclose(group[0], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(group @ group.swapaxes(1, 2), np.broadcast_to(np.eye(3), group.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(group), 1)
    apart = np.abs(group[:, None] - group).max(axis=(2, 3))
    assert (apart + np.eye(len(group)) > 0.01).all()  # no element twice
    for element in group[:: max(1, len(group) // 5)]:
        found = [place_in(group, element @ other) for other in group]
        assert max(distance for distance, _ in found) < 1e-9
        assert sorted(place for _, place in found) == list(range(len(group)))


@pytest.mark.parametrize("name", AXES)
def test_the_axes_lie_where_relion_has_them(name):
    group = point_group(name).numpy()
    for fold, axis in AXES[name]:
        turn = Rotation.from_rotvec(2 * np.pi / fold * np.array(axis) / np.linalg.norm(axis)).as_matrix()
        assert place_in(group, turn)[0] < 1e-5


def test_dihedral_groups_have_a_two_fold_on_x_and_none_on_y_where_n_is_odd():
    group = point_group("D3").numpy()
    assert place_in(group, np.diag([1.0, -1, -1]))[0] < 1e-12
    assert place_in(group, np.diag([-1.0, 1, -1]))[0] > 0.1


def test_cyclic_copies_add_to_the_first_angle_as_relion_s_do():
    """With the axis on z only `rlnAngleRot` changes: by 360 / n degrees, in either sense around."""
    rotation = random_rotations(20, torch.Generator().manual_seed(0)).double()
    expanded = expand_pose(Pose(rotation, torch.zeros(20, 2).double()), point_group("C5"))
    given, found = (euler_from_rotation(r).numpy() for r in (rotation, expanded.rotation))
    added = (found.reshape(20, 5, 3) - given[:, None] + 180) % 360 - 180
    np.testing.assert_allclose(added[..., 1:], 0, atol=1e-6)
    turns = np.sort(np.rint(added[..., 0]) % 360, axis=1)
    np.testing.assert_array_equal(turns, np.tile(np.arange(5) * 72, (20, 1)))


@pytest.mark.parametrize("name", ["C3", "D2", "D3", "T", "I3"])
def test_a_symmetric_molecule_looks_the_same_at_every_copy(name):
    """Projections of Gaussians in closed form, whose centres are all copies of an asymmetric unit."""
    group = point_group(name)
    generator = torch.Generator().manual_seed(3)
    unit = torch.randn(7, 3, generator=generator, dtype=torch.float64) * 20
    cloud = (group @ unit.T).mT.flatten(0, 1)
    given = Pose(random_rotations(4, generator).double(), torch.zeros(4, 2).double())
    expanded = expand_pose(given, group)
    expected = projections(cloud, given.rotation).repeat_interleave(len(group), 0)
    torch.testing.assert_close(projections(cloud, expanded.rotation), expected)
    # from the other side, or by the inverse rotation, it is another picture
    wrong = (group @ given.rotation[:, None]).flatten(0, 1)
    for other in (wrong, expanded.rotation.mT):
        off = (projections(cloud, other) - expected).abs().amax(dim=(1, 2)).unflatten(0, (4, -1))[:, 1:]
        assert float(off.max(dim=1).values.min()) > 0.05 * float(expected.max())
    # and a molecule without the symmetry shows its copies as different pictures
    alone = projections(unit, expanded.rotation).unflatten(0, (4, -1))
    assert float((alone[:, 1:] - alone[:, :1]).abs().amax(dim=(2, 3)).min()) > 0.05


def projections(cloud, rotation):
    """Images (n, 32, 32) of unit Gaussians of 6 A seen along the image's z, 4 A per pixel."""
    line = (torch.arange(32, dtype=torch.float64) - 16) * 4
    x, y = (rotation @ cloud.T)[:, :2].unbind(1)
    along_x, along_y = (torch.exp(-((line - centre[..., None]) ** 2) / 72) for centre in (x, y))
    return torch.einsum("njy,njx->nyx", along_y, along_x)


def test_copies_follow_one_another_and_keep_the_shift():
    pose = Pose(random_rotations(3, torch.Generator().manual_seed(1)), torch.arange(6.0).reshape(3, 2))
    group = point_group("D2")
    expanded = expand_pose(pose, group)
    assert len(expanded) == 12 and expanded.rotation.dtype == torch.float32
    for number in range(12):
        source, copy = number // 4, number % 4
        expected = pose.rotation[source].double() @ group[copy]
        torch.testing.assert_close(expanded.rotation[number].double(), expected, atol=1e-6, rtol=0)
        assert torch.equal(expanded.shift_A[number], pose.shift_A[source])
    torch.testing.assert_close(expanded.rotation[::4], pose.rotation)


def test_names_are_relion_s_in_either_case():
    assert torch.equal(point_group("d3"), point_group("D3"))
    for name in ("", "C", "C0", "C03", "C100", "D-2", "I5", "T3", "C3v", "Oh", "C3 "):
        with pytest.raises(InputError, match="expected a point group in RELION's notation"):
            point_group(name)
