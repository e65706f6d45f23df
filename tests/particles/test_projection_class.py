"""Classes of viewing directions against the definition of HEALPix and RELION's angles."""

import pytest
import torch

from cryomorph.particles.projection_class import projection_classes
from cryomorph.physics.pose import random_rotations, rotation_from_euler


@pytest.mark.parametrize("count", [12, 48, 192])
def test_classes_are_of_equal_size(count):
    n = 400 * count
    found = projection_classes(random_rotations(n, torch.Generator().manual_seed(0)), count)
    sizes = torch.bincount(found, minlength=count)
    assert len(sizes) == count and int(sizes.min()) > 300 and int(sizes.max()) < 500


def test_rot_and_tilt_decide_and_psi_does_not():
    generator = torch.Generator().manual_seed(0)
    angles = torch.rand(200, 3, generator=generator, dtype=torch.float64) * torch.tensor([360.0, 180.0, 360.0])
    turned = angles + torch.tensor([0.0, 0.0, 77.0])
    found = projection_classes(rotation_from_euler(angles), 48)
    assert torch.equal(found, projection_classes(rotation_from_euler(turned), 48))
    other = angles + torch.tensor([90.0, 0.0, 0.0])
    assert not torch.equal(found, projection_classes(rotation_from_euler(other), 48))


def test_the_polar_caps_are_the_first_and_the_last_four():
    """Of 12 pixels the first four lie about tilt 0, in quarters of rot, and the last four about tilt 180."""
    for number, rot in enumerate((45.0, 135.0, 225.0, 315.0)):
        cap = torch.tensor([[rot, 10.0, 3.0], [rot, 170.0, 3.0]], dtype=torch.float64)
        assert projection_classes(rotation_from_euler(cap), 12).tolist() == [number, 8 + number]
