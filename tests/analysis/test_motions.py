"""Motions of Gaussians whose motion is known in closed form: what is found, where paths go, where files put them."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cryomorph.analysis.motions.modes import combined, eigen_motions, localised_motions, mass, rms_A
from cryomorph.analysis.motions.paths import FileFrame, motion_path, path_along, straight_line
from cryomorph.config.errors import InputError
from cryomorph.io.mrc import write_map
from cryomorph.physics.gaussian_slices import Mixture
from cryomorph.representations.gaussian_motion import GaussianShape
from cryomorph.representations.gaussians import UNIT, Gaussians

N = 12  # Gaussians: four of the core, four of each arm
ARMS = np.repeat([0, 1, 2], 4)


class Linear(nn.Module):
    """Displacements `z @ field`, in pixels."""

    def __init__(self, field: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("field", torch.as_tensor(field, dtype=torch.float32))

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        return {"positions": z @ self.field.flatten(1) / UNIT}


def gaussians(network: nn.Module | None, zdim: int, *, amplitude: np.ndarray | None = None) -> Gaussians:
    """A mixture of known masses, moved by a stand-in for its network."""
    rng = np.random.default_rng(0)
    position = torch.as_tensor(rng.normal(0, 3, (1, N, 3)), dtype=torch.float32)
    share = np.ones(N) if amplitude is None else amplitude
    neutral = Mixture(position, torch.ones(1, N), torch.as_tensor(share[None], dtype=torch.float32))
    model = Gaussians(GaussianShape(box=32, zdim=zdim, count=N, changes=("positions",), parts=0), neutral)
    if network is not None:
        model.network = network  # type: ignore[assignment]
    return model.eval()


def fields() -> tuple[np.ndarray, np.ndarray]:
    """Two motions, each of one arm, whose mass-weighted lengths are 1 pixel."""
    found = []
    for arm in (1, 2):
        field = np.random.default_rng(arm).normal(size=(N, 3)) * (arm == ARMS)[:, None]
        found.append(field / np.sqrt(np.square(field).sum() / N))
    return found[0], found[1]


def test_eigen_motions_of_known_displacements():
    """Independent coordinates of standard deviation 3 and 1: nine tenths of the variance, and the coordinates."""
    one, two = fields()
    z = np.random.default_rng(3).normal(size=(3000, 2)) * [3, 1]
    space = eigen_motions(gaussians(Linear(np.stack([one, two])), 2), z, pixel_A=2.0, components=2)
    assert [motion.name for motion in space.motions] == ["pc1", "pc2"]
    ratio = [motion.facts["explained_variance"] for motion in space.motions]
    variance = np.linalg.eigvalsh(np.cov(z.T))[::-1]
    np.testing.assert_allclose(ratio, variance / variance.sum(), atol=0.01)  # of the 2,000 that were drawn
    for axis in (0, 1):
        centred = 2.0 * (z[:, axis] - z[:, axis].mean())
        found = space.coordinates[:, axis] - space.coordinates[:, axis].mean()
        sign = np.sign(found @ centred)
        np.testing.assert_allclose(sign * found, centred, atol=0.6)
        assert np.corrcoef(found, centred)[0, 1] * sign > 0.998
    np.testing.assert_allclose(space.scores.std(axis=0), 1, rtol=1e-6)


def test_coordinates_are_lengths_weighted_by_mass():
    """One motion: a particle's coordinate is the root mean square displacement from the mean, exactly."""
    amplitude = np.linspace(0.5, 2, N)
    field = np.random.default_rng(1).normal(size=(1, N, 3))
    model = gaussians(Linear(field), 1, amplitude=amplitude)
    z = np.random.default_rng(3).normal(size=(500, 1))
    space = eigen_motions(model, z, pixel_A=1.5, components=1)
    np.testing.assert_allclose(mass(model), amplitude / amplitude.sum(), rtol=1e-5)
    moved = 1.5 * (z - z.mean())[:, :, None] * field
    expected = [rms_A(part, amplitude) for part in moved]
    np.testing.assert_allclose(np.abs(space.coordinates[:, 0]), expected, atol=1e-4)


def test_components_that_hold_nothing_are_left_out():
    z = np.random.default_rng(3).normal(size=(200, 1))
    space = eigen_motions(gaussians(Linear(fields()[0][None]), 1), z, pixel_A=1.0, components=5)
    assert len(space.motions) == 1
    assert space.coordinates.shape == (200, 1)


def test_gaussians_that_stand_still_are_refused():
    z = np.random.default_rng(3).normal(size=(20, 1))
    with pytest.raises(InputError, match="no Gaussian moves"):
        eigen_motions(gaussians(Linear(np.zeros((1, N, 3))), 1), z, pixel_A=1.0, components=2)
    regions = (ARMS == 1)[None].astype(float)
    with pytest.raises(InputError, match="no Gaussian of region 1 moves"):
        localised_motions(gaussians(Linear(fields()[1][None]), 1), z, regions, pixel_A=1.0)
    with pytest.raises(InputError, match="same latent point"):
        localised_motions(gaussians(Linear(fields()[0][None]), 1), z * 0, regions, pixel_A=1.0)


def test_localised_directions_of_two_sheared_arms():
    """`z = M t`, each t moving one arm: the directions are the columns of M, whatever the angle between them."""
    one, two = fields()
    basis = np.array([[1.0, 0.8], [0.1, 1.0]])  # columns: where t1 and t2 point
    model = gaussians(Linear(np.einsum("tq,tnx->qnx", np.linalg.inv(basis), np.stack([one, two]))), 2)
    t = np.random.default_rng(3).normal(size=(400, 2)) * [2, 1]
    space = localised_motions(model, t @ basis.T, np.stack([ARMS == 1, ARMS == 2]).astype(float), pixel_A=2.0)
    for number, motion in enumerate(space.motions):
        wanted = basis[:, number] / np.linalg.norm(basis[:, number])
        cosine = np.dot(motion.facts["direction"], wanted)
        assert np.degrees(np.arccos(min(abs(cosine), 1))) < 1
        assert motion.facts["tangent"]["ratio"] > 50
        # four of twelve Gaussians carry a field of 1 pixel over all
        expected = 2.0 * np.sqrt(3) * t[:, number].std()
        assert motion.facts["tangent"]["inside_A"] == pytest.approx(expected, rel=0.02)
        assert abs(np.corrcoef(space.coordinates[:, number], t[:, number])[0, 1]) > 0.99
    ends = straight_line(space.scores, space.motions[0], model.origin.double().numpy(), points=5)
    reached = np.ptp((ends @ np.linalg.inv(basis).T)[:, 0])
    assert reached == pytest.approx(np.ptp(np.percentile(t[:, 0], (5, 95))), rel=0.05)


def test_a_direction_where_no_particle_lies_does_not_win():
    """The second coordinate moves the arm alone, and a thousand times as far, but no particle goes along it."""
    one, two = fields()
    model = gaussians(Linear(np.stack([one + 0.02 * two, 1000 * one])), 2)
    z = np.random.default_rng(3).normal(size=(400, 2)) * [1, 1e-6]
    motion = localised_motions(model, z, (ARMS == 1)[None].astype(float), pixel_A=1.0).motions[0]
    assert abs(motion.facts["direction"][0]) > 0.999


def test_combinations_go_along_both():
    one, two = fields()
    model = gaussians(Linear(np.stack([one, two])), 2)
    z = np.random.default_rng(3).normal(size=(2000, 2)) * [3, 1]
    space = localised_motions(model, z, np.stack([ARMS == 1, ARMS == 2]).astype(float), pixel_A=1.0)
    frame = FileFrame(32, 1.0, flip_hand=False)
    signs = {}
    for text, name in (("1+2", "region1+region2"), ("2-1", "region2-region1")):
        motion = combined(space.motions, text)
        assert motion.name == name
        moved = motion_path(model, z, space, motion=motion, points=3, frame=frame).displacement
        signs[text] = [float(np.sum(moved * field)) for field in (one, two)]
        # each goes as far as the particles spread along it: three to one
        assert abs(signs[text][0] / signs[text][1]) == pytest.approx(3, rel=0.15)
    assert np.prod(signs["1+2"]) * np.prod(signs["2-1"]) < 0
    for text, said in (("1+3", "there are motions 1 to 2, not 3"), ("0+1", "not 0"), ("1+1", "each once")):
        with pytest.raises(InputError, match=said):
            combined(space.motions, text)
    eigen = eigen_motions(model, z, pixel_A=1.0, components=2)
    assert combined(eigen.motions, "1-2").step is None


def arc(n: int, *, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Latent points about a half circle, and where on it each is, in radians."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, np.pi, n)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.normal(0, noise, (n, 2)), angle


def test_a_path_stays_where_particles_are():
    z, _ = arc(4000, noise=0.02)
    scores = (z - z.mean(axis=0)) / z.std(axis=0)
    path = path_along(z, scores, np.array([1.0, 0.0]), points=9)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), 1, atol=0.03)
    # a local linear fit does not draw the ends inwards
    np.testing.assert_allclose(path[:, 0], np.percentile(z[:, 0], np.linspace(5, 95, 9)), atol=0.01)


def test_a_path_does_not_leap_between_branches():
    """The height of a half circle is the same on either side: the path takes one of them."""
    z, _ = arc(4000, noise=0.02)
    scores = (z - z.mean(axis=0)) / z.std(axis=0)
    path = path_along(z, scores, np.array([0.0, 1.0]), points=8)
    # the top, where both meet, is a place of its own
    assert abs(np.sign(path[:-1, 0]).sum()) == 7
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), 1, atol=0.04)


def test_a_path_of_few_particles():
    z = np.random.default_rng(0).normal(size=(5, 2))
    assert np.isfinite(path_along(z, z, np.array([1.0, 0.0]), points=4)).all()


@pytest.mark.parametrize("flip_hand", [False, True])
def test_a_position_in_a_file_is_where_the_map_has_its_density(tmp_path, flip_hand):
    """gemmi reads the map by its header, as other programs do, and finds the Gaussian where its pseudo-atom is."""
    frame = FileFrame(24, 3.5, flip_hand=flip_hand)
    position = np.array([[3.3, -4.6, 2.2]])  # x, y, z from voxel 12
    z, y, x = np.ogrid[-12:12, -12:12, -12:12]
    squared = (x - position[0, 0]) ** 2 + (y - position[0, 1]) ** 2 + (z - position[0, 2]) ** 2
    volume = torch.as_tensor(np.exp(-squared / (2 * 2.0**2)), dtype=torch.float32)
    path = Path(tmp_path / "map.mrc")
    write_map(path, frame.map(volume).numpy(), frame.pixel_A)
    grid = gemmi.read_ccp4_map(str(path)).grid
    place = frame.to_file(position)[0]
    np.testing.assert_allclose(frame.from_file(place), position[0], atol=1e-9)
    peak = grid.interpolate_value(gemmi.Position(*place), 3)
    assert peak == pytest.approx(1, abs=0.02)
    for axis in range(3):
        for step in (-1.5, 1.5):
            beside = place + step * np.eye(3)[axis]
            assert grid.interpolate_value(gemmi.Position(*beside), 3) < peak
