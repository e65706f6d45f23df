"""What moves Gaussians: the neutral model at the origin, parts as rigid bodies, masks, gates, exact slopes."""

from __future__ import annotations

import pytest
import roma
import torch
from torch import Tensor

from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.gaussian_slices import Mixture
from cryomorph.physics.pose import random_rotations, rotation_from_rotvec
from cryomorph.physics.symmetry import point_group
from cryomorph.representations.gaussian_motion import (
    AMPLITUDES,
    CHANGES,
    POSITIONS,
    WIDTHS,
    GaussianShape,
    Parts,
    blend_weights,
    compact_unit,
    spread_points,
)
from cryomorph.representations.gaussians import Gaussians

BOX, COUNT, ZDIM = 16, 20, 2


def neutral(count: int = COUNT) -> Mixture:
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(1, count, 3, generator=generator) * 2
    width, amplitude = torch.rand(2, 1, count, generator=generator) + 1
    return Mixture(position, width, amplitude)


def model(free: Tensor | None = None, **shape: object) -> Gaussians:
    torch.manual_seed(1)
    asked = {"changes": CHANGES, "parts": 0, "width": 16, "layers": 2} | shape
    made = Gaussians(GaussianShape(BOX, ZDIM, COUNT, **asked), neutral(), origin=torch.tensor([0.5, -1.0]), free=free)
    for head in made.network.heads.values():
        torch.nn.init.normal_(head.weight, std=0.3)
    return made.eval()


@pytest.mark.parametrize("parts", [0, 4])
def test_at_the_origin_nothing_is_changed(parts):
    made = model(parts=parts)
    for found, expected in zip(made.at(made.origin[None]), neutral(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    away = made.at(made.origin[None] + 1)
    assert all(float((found - given).detach().abs().max()) > 0.01 for found, given in zip(away, neutral(), strict=True))


@pytest.mark.parametrize("kind", CHANGES)
def test_only_what_may_change_does_and_a_gate_holds_it_back(kind):
    z = torch.ones(3, ZDIM)
    moved, start = model(changes=(kind,)).at(z), neutral()
    changed = {
        POSITIONS: bool((moved.position - start.position).abs().max() > 0.01),
        AMPLITUDES: bool((moved.amplitude - start.amplitude).abs().max() > 0.01),
        WIDTHS: bool((moved.width - start.width).abs().max() > 0.01),
    }
    assert [name for name, found in changed.items() if found] == [kind]
    held = model()
    held.network.gate[CHANGES.index(kind)] = 0
    field = {POSITIONS: "position", AMPLITUDES: "amplitude", WIDTHS: "width"}[kind]
    found, given = getattr(held.at(z), field), getattr(start, field)
    torch.testing.assert_close(found, given.expand_as(found), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parts", [0, 4])
def test_gaussians_outside_the_mask_stay_as_they_are(parts):
    free = (torch.arange(COUNT) < 5).float()
    found, start = model(free, parts=parts).at(torch.ones(1, ZDIM)), neutral()
    for moved, given in zip(found, start, strict=True):
        torch.testing.assert_close(moved[:, 5:], given[:, 5:], rtol=1e-4, atol=1e-5)
        assert float((moved[:, :5] - given[:, :5]).detach().abs().max()) > 0.01


def test_one_part_is_a_rigid_body():
    position = neutral().position
    parts = Parts(position[0], 1)
    turn, step = torch.tensor([[0.3, -0.8, 0.5]]), torch.tensor([[1.0, -2.0, 0.5]])
    moved = position + parts(torch.cat([turn, step / 8], 1), position, 8.0)
    centre = position.mean(1)
    expected = (position - centre) @ roma.rotvec_to_rotmat(turn).mT + centre + step
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)


def test_a_part_moves_what_is_next_to_it_most():
    """A weight in Gaussians of the distances, as wide as half the parts' spacing: by hand."""
    position = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [4, 0, 0]])
    parts = Parts(position, 2)
    torch.testing.assert_close(parts.centre[:, 0].sort().values, torch.tensor([0.5, 3.5]))
    motion = torch.zeros(1, 2, 6)
    motion[0, int(parts.centre[:, 0].argmax()), 3] = 2.0
    shift = parts(motion.flatten(1), position[None], 1.0)[0, :, 0]
    near, far = ((position[:, 0] - x) ** 2 / (2 * 1.5**2) for x in (3.5, 0.5))
    expected = 2 * torch.exp(-near) / (torch.exp(-near) + torch.exp(-far))
    torch.testing.assert_close(shift, expected)


@pytest.mark.parametrize("count", [1, 2, 7, COUNT])
def test_points_are_spread_and_every_gaussian_follows_some_part(count):
    position = neutral().position[0]
    centre = spread_points(position, count)
    assert centre.shape == (count, 3) and len(torch.unique(centre, dim=0)) == count
    blend = blend_weights(position, centre)
    torch.testing.assert_close(blend.sum(1), torch.ones(COUNT))
    assert bool((blend.argmax(1) == torch.cdist(position, centre).argmin(1)).all())


@pytest.mark.parametrize("name", ["C3", "D2"])
def test_a_unit_of_a_symmetric_cloud_is_one_copy_of_it(name):
    """A cloud made of copies of a compact unit: the unit chosen is one of the copies, whole."""
    group = point_group(name).float()
    unit = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([8.0, 2.0, 6.0])
    cloud = (group[:, None] @ unit[None, ..., None])[..., 0].flatten(0, 1)
    chosen = compact_unit(cloud, torch.ones(len(cloud)), group)
    by_copy = chosen.view(len(group), 30)
    assert sorted(by_copy.sum(1).tolist()) == [0.0] * (len(group) - 1) + [30.0]


def test_tangents_along_the_pose_are_the_slopes_of_small_turns():
    made, disk = model(parts=3), fourier_disk(BOX)
    z, rotation = torch.randn(3, ZDIM), random_rotations(3, torch.Generator().manual_seed(0))
    found = made.tangents(z, rotation, disk, latent=False, pose=True)[1]
    with torch.no_grad():
        for axis in range(3):
            turn = rotation_from_rotvec(0.002 * torch.eye(3)[axis][None])
            ahead, behind = (made.slices(z, t @ rotation, disk) for t in (turn, turn.mT))
            slope = (ahead - behind) / 0.004
            assert float((found[..., axis] - slope).abs().max() / slope.abs().max()) < 2e-3


def test_without_a_latent_space_there_is_one_mixture():
    made = Gaussians(GaussianShape(BOX, 0, COUNT), neutral())
    found = made.at(torch.zeros(3, 0))
    for part, given in zip(found, neutral(), strict=True):
        torch.testing.assert_close(part, given.expand(3, *given.shape[1:]) if len(given) == 1 else given)


def test_penalties_are_the_widths_spread_and_the_squares_of_matrices():
    made = model(spread_penalty=2.0, decay=0.5)
    squares = sum(float((p.detach() ** 2).sum()) for name, p in made.network.named_parameters() if "weight" in name)
    expected = 2.0 * float(neutral().width.log().var(correction=0)) + 0.5 * squares
    assert float(made.penalty().detach()) == pytest.approx(expected, rel=1e-4)
    assert float(model().penalty().detach()) == 0
