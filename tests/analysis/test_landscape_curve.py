"""The length along a curve in volume space, with noise-free maps of a motion as the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from cryomorph.analysis.landscape import curve as vc
from cryomorph.analysis.landscape.curve import volume_curve
from cryomorph.analysis.landscape.embedding import Spline
from cryomorph.analysis.landscape.sketch import sketch_maps, sketch_mask, volume_space

BOX = 24


def swinging(angle: float) -> torch.Tensor:
    """A core, and an arm of two voxels' width that swings about it at a distance of eight voxels."""
    line = torch.arange(BOX) - BOX // 2
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    core = torch.exp(-(x**2 + y**2 + z**2) / 18)
    arm = torch.exp(-((x - 8 * np.cos(angle)) ** 2 + (y - 8 * np.sin(angle)) ** 2 + z**2) / 8)
    return (core + arm).float()


@pytest.fixture(scope="module")
def swing() -> tuple[np.ndarray, np.ndarray]:
    """Angles of 600 particles over 1.5 radians, and their coordinates on six volume components."""
    angle = np.random.default_rng(0).uniform(0, 1.5, 600)
    sketch = sketch_maps(lambda z: swinging(float(z[0])), angle[:, None], np.arange(600), box=BOX)
    space = volume_space(sketch, sketch_mask(sketch), most=6)
    return angle, space.scores[:, : len(space.ratio)].astype(np.float32)


def test_the_first_component_of_a_large_motion_turns_back_and_the_curve_does_not(swing):
    angle, coordinates = swing
    assert abs(spearmanr(coordinates[:, 0], angle)[0]) < 0.97
    found = volume_curve(
        Spline.through(angle[:, None], coordinates), coordinates, z=angle[:, None], std=0.02 + 0 * angle[:, None]
    )
    assert abs(spearmanr(found.position, angle)[0]) > 0.9999
    assert found.explained > 0.99
    assert found.position.std() == pytest.approx(1, abs=1e-3)


def test_noise_is_what_the_latent_points_uncertainty_makes(swing):
    """Against many draws of the latent points from their posteriors."""
    angle, coordinates = swing
    spline = Spline.through(angle[:, None], coordinates)
    std = np.full((600, 1), 0.03)
    found = volume_curve(spline, coordinates, z=angle[:, None], std=std)
    inside = (angle > 0.1) & (angle < 1.4)
    rng = np.random.default_rng(1)
    drawn = np.stack([spline(angle[inside, None] + 0.03 * rng.normal(size=(inside.sum(), 1))) for _ in range(200)])
    assert found.noise == pytest.approx(drawn.var(axis=0).mean(axis=0).sum() / coordinates.var(axis=0).sum(), rel=0.15)


def test_uncertainty_beyond_the_spread_is_all_there_is_and_no_more(swing):
    angle, coordinates = swing
    spline = Spline.through(angle[:, None], coordinates)
    found = volume_curve(spline, coordinates, z=angle[:, None], std=np.full((600, 1), 30.0))
    assert found.noise == pytest.approx(1)
    assert np.isfinite(found.position).all()


def test_two_motions_leave_much_beside_a_curve():
    rng = np.random.default_rng(2)
    plane = rng.uniform(-1, 1, (500, 2))
    found = volume_curve(Spline.through(plane, plane), plane.astype(np.float32), z=plane, std=0.01 + 0 * plane)
    assert found.explained + found.noise < 0.95


def test_particles_beyond_those_that_the_curve_is_fitted_to_are_placed_too(swing, monkeypatch):
    monkeypatch.setattr(vc, "MOST", 300)
    angle, coordinates = swing
    spline = Spline.through(angle[:, None], coordinates)
    found = volume_curve(spline, coordinates, z=angle[:, None], std=0.02 + 0 * angle[:, None])
    assert found.position.shape == (600,)
    assert abs(spearmanr(found.position, angle)[0]) > 0.999
