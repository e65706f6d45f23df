"""Atomic models that follow Gaussians: rigid motions exactly, hinges nearly, and the right conformation."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from cryomorph.analysis.motions.atomic_model import fitted_conformation, follow, spacing
from cryomorph.config.errors import InputError
from cryomorph.io.structure import Atoms
from cryomorph.physics.gaussian_slices import Mixture
from cryomorph.representations.gaussian_motion import GaussianShape
from cryomorph.representations.gaussians import UNIT, Gaussians


def atoms_at(position: np.ndarray) -> Atoms:
    return Atoms(Path("model.pdb"), gemmi.Structure(), position, np.full(len(position), 6.0))


def test_rigid_motions_are_followed_exactly():
    rng = np.random.default_rng(0)
    start, atoms, weight = rng.normal(0, 20, (60, 3)), rng.normal(0, 25, (500, 3)), rng.uniform(0, 1, 60)
    turns = Rotation.from_rotvec([[0.5, 1.0, -0.3], [0, 0, np.pi], [0.0, 0, 0]])
    shift = np.array([[10.0, 0, -4], [0, 0, 0], [1, 2, 3]])
    stops = np.stack([turn.apply(start) + step for turn, step in zip(turns, shift, strict=True)])
    found = follow(atoms, start, stops, weight=weight)
    expected = np.stack([turn.apply(atoms) + step for turn, step in zip(turns, shift, strict=True)])
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_flat_neighbourhoods_are_turned_not_mirrored():
    """Gaussians of a plane say nothing of the third axis but its hand."""
    rng = np.random.default_rng(0)
    start = np.column_stack([rng.normal(0, 10, (40, 2)), np.zeros(40)])
    atoms = rng.normal(0, 8, (50, 3))
    turn = Rotation.from_rotvec([0.4, -0.9, 1.3])
    found = follow(atoms, start, turn.apply(start)[None], weight=np.ones(40))[0]
    np.testing.assert_allclose(found, turn.apply(atoms), atol=1e-8)


def test_an_arm_turns_and_the_rest_stays():
    """Two bodies further apart than the Gaussians of either: each atom goes with its own."""
    rng = np.random.default_rng(1)
    cube = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3) * 5.0
    beside = np.array([60.0, 0, 0])
    start = np.concatenate([cube, cube + beside])
    turn = Rotation.from_rotvec([0, 0, np.radians(60)])
    stop = np.concatenate([cube, turn.apply(cube + beside)])
    assert 4 < spacing(start) < 9
    atoms = np.concatenate([rng.uniform(0, 15, (100, 3)), rng.uniform(0, 15, (100, 3)) + beside])
    found = follow(atoms, start, stop[None], weight=np.ones(len(start)))[0]
    np.testing.assert_allclose(found[:100], atoms[:100], atol=1e-6)
    np.testing.assert_allclose(found[100:], turn.apply(atoms[100:]), atol=1e-6)


def test_an_atom_far_from_all_follows_the_nearest():
    start = np.random.default_rng(0).normal(0, 1, (30, 3))
    far, step = np.array([[1e4, 0.0, 0.0]]), np.array([0, 7.0, 0])
    found = follow(far, start, start[None] + step, weight=np.ones(30))
    np.testing.assert_allclose(found[0], far + step, atol=1e-6)


def test_too_few_gaussians_are_refused():
    two = np.zeros((2, 3))
    with pytest.raises(InputError, match="too few to turn a model"):
        follow(two, two, two[None], weight=np.ones(2))


class Swing(nn.Module):
    """Turns the second half of the Gaussians about the z axis by z radians."""

    def __init__(self, position: Tensor) -> None:
        super().__init__()
        self.position = position

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        x, y = self.position[:, 0], self.position[:, 1]
        c, s = z.cos() - 1, z.sin()
        moved = torch.stack([c * x - s * y, s * x + c * y, torch.zeros_like(s * x)], dim=2)
        moved[:, : len(x) // 2] = 0
        return {"positions": moved.flatten(1) / UNIT}


@pytest.fixture(scope="module")
def hinge() -> Gaussians:
    rng = np.random.default_rng(0)
    core, arm = rng.uniform(-3, 3, (30, 3)), rng.uniform(-2, 2, (30, 3)) + np.array([8.0, 0, 0])
    position = torch.as_tensor(np.concatenate([core, arm])[None], dtype=torch.float32)
    ones = torch.ones(1, 60)
    model = Gaussians(
        GaussianShape(box=32, zdim=1, count=60, changes=("positions",), parts=0), Mixture(position, ones, ones)
    )
    model.network = Swing(position[0])  # type: ignore[assignment]
    return model.eval()


def test_the_conformation_of_a_model_is_found(hinge):
    z = np.linspace(-1.2, 1.2, 400)[:, None]
    position = hinge.at(torch.tensor([[0.7]])).position[0].detach().double().numpy()
    fit = fitted_conformation(hinge, z, atoms_at(position), position=position, resolution_px=4.0)
    assert z[fit.particle, 0] == pytest.approx(0.7, abs=0.06)
    assert fit.correlation is not None
    assert fit.correlation > 0.95


def test_a_model_that_lies_elsewhere_is_refused(hinge):
    position = np.full((10, 3), 100.0)
    with pytest.raises(InputError, match="10 of its 10 atoms lie outside of the maps"):
        fitted_conformation(hinge, np.zeros((5, 1)), atoms_at(position), position=position, resolution_px=4.0)
