"""Orientations of a 2D alignment are told from those of a 3D one."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.particles.views import distinct_views, is_3d


def relion(rot, tilt, psi):
    angles = np.broadcast_arrays(*(np.asarray(a, float) for a in (rot, tilt, psi)))
    matrix = Rotation.from_euler("ZYZ", np.stack(angles, -1).reshape(-1, 3), degrees=True).as_matrix().swapaxes(1, 2)
    return torch.from_numpy(matrix.copy()).float()


ANY = np.linspace(0, 359, 50)


@pytest.mark.parametrize(
    ("rotation", "views"),
    [
        (relion(np.zeros(50), 0, 0), 1),  # never aligned
        (relion(ANY, 0, 0), 1),  # all tilts 0
        (relion(0, 0, ANY), 1),  # 2D classes
        (relion(0, 180 * (ANY > 180), ANY), 1),  # and their mirror images
        (relion(0, 90.0 * (np.arange(50) % 2), ANY), 2),
        (relion(90.0 * (np.arange(50) % 2), 90.0 * (np.arange(50) % 3 > 0), ANY), 3),  # along the axes
    ],
)
def test_few_views_are_no_3d_alignment(rotation, views):
    assert distinct_views(rotation) == views and not is_3d(rotation)


def test_views_of_a_refinement():
    assert is_3d(relion(ANY, 90, 0))  # side views of a filament
    assert is_3d(torch.from_numpy(Rotation.random(50, random_state=0).as_matrix().copy()).float())
    late = relion(np.r_[np.zeros(5000), ANY], np.r_[np.zeros(5000), ANY], 0)
    assert is_3d(late)
    assert is_3d(relion(0, 0, [10, 20]))  # too few to tell
