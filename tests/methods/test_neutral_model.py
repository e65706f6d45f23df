"""The neutral model: seeds where density is, dead Gaussians reseed_dead, a state that lacks nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomorph.methods.neutral_model import match_of, neutral_particle, reseed_dead, seeded
from cryomorph.physics.gaussian_slices import Mixture, gaussian_map
from cryomorph.representations.linear import LinearSubspace
from cryomorph.training.linear_start import LinearStart


def blob(position: list[list[float]], width: float = 2.0, box: int = 32) -> torch.Tensor:
    places = torch.tensor([position], dtype=torch.float32)
    ones = torch.ones(1, len(position))
    return gaussian_map(Mixture(places, width * ones, ones), box)


def test_seeds_lie_where_density_is_in_proportion_to_it():
    centres = [[8.0, 0, 0], [-8.0, 0, 0], [-8.0, 0, 0]]
    volume = blob(centres)
    found = seeded(volume, 30, radius=8.0, seed=0)
    right = found.position[0, :, 0] > 0
    near = torch.where(right, 8.0, -8.0)
    distance = (found.position[0] - torch.stack([near, 0 * near, 0 * near], 1)).norm(dim=1)
    assert float(distance.max()) < 5 and 3 < int(right.sum()) < 15
    share = float(found.amplitude[0, right].sum() / found.amplitude.sum())
    dense = volume * (volume > 0.15 * volume.max())
    assert share == pytest.approx(float(dense[:, :, 16:].sum() / dense.sum()), abs=0.05)
    again = seeded(blob(centres), 30, radius=8.0, seed=0)
    assert torch.equal(found.position, again.position)


def test_dead_gaussians_take_over_half_of_the_strongest_and_no_mass_is_lost():
    position = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0)) * 5
    amplitude = torch.tensor([[1.0, 1.0, 4.0, 1.0, 1e-4, 0.0]])
    given = Mixture(position, torch.ones(1, 6), amplitude)
    found = reseed_dead(given)
    assert float(found.amplitude.sum()) == pytest.approx(float(amplitude.sum()), rel=1e-3)
    assert float(found.amplitude.min()) >= 0.4
    # the strongest and its new mate lie on either side of where it was
    torch.testing.assert_close((found.position[0, 2] + found.position[0, 4]) / 2, position[0, 2], atol=1e-5, rtol=0)
    assert 0.5 < float((found.position[0, 2] - found.position[0, 4]).norm()) < 2


def test_living_gaussians_are_left_alone():
    given = Mixture(torch.randn(1, 4, 3), torch.ones(1, 4), torch.ones(1, 4))
    assert all(torch.equal(a, b) for a, b in zip(reseed_dead(given), given, strict=True))


def test_the_neutral_state_lacks_no_part_and_is_in_the_middle():
    """A core everywhere, a part that a third of the particles lack, and an arm that swings the others about."""
    core, part = blob([[0.0, 0, 0], [3.0, 0, 0]]), blob([[0.0, 9.0, 0]])
    arm = blob([[0.0, 0, 9.0]]) - blob([[0.0, 0, -9.0]])
    rng = np.random.default_rng(0)
    there = (np.arange(900) % 3 > 0).astype(float)
    swing = rng.uniform(-1, 1, 900)
    mean = torch.tensor(np.stack([there, swing], 1)).float()
    maps = torch.stack([core, part, 0.3 * arm])
    number = neutral_particle(LinearStart(LinearSubspace(maps), mean, torch.full_like(mean, 0.1)))
    assert there[number] == 1 and abs(swing[number]) < 0.35


def test_a_mixture_matches_its_own_map_and_no_other():
    generator = torch.Generator().manual_seed(1)
    given = Mixture(torch.randn(1, 9, 3, generator=generator) * 3, torch.full((1, 9), 1.5), torch.ones(1, 9))
    assert match_of(given, gaussian_map(given, 32), 8.0) > 0.999
    elsewhere = given._replace(position=given.position.roll(1, 2))
    assert match_of(elsewhere, gaussian_map(given, 32), 8.0) < 0.9
