"""Latent points before training, taken from the linear model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomorph.representations.linear import LinearSubspace
from cryomorph.training.linear_start import MISSING_STD, LinearStart, first_targets


def start_of(mean, spread=0.1):
    maps = torch.zeros(mean.shape[1] + 1, 8, 8, 8)
    return LinearStart(LinearSubspace(maps), mean, torch.full_like(mean, spread))


def test_the_linear_coordinates_are_taken_over_where_there_are_as_many():
    start = start_of(torch.randn(50, 3, generator=torch.Generator().manual_seed(1)))
    targets = first_targets(start, 3, seed=0)
    there = start.on_landscape(0)
    assert targets.same_space
    assert torch.equal(targets.point, there.mean) and torch.equal(targets.teacher_point, there.mean)
    assert torch.equal(targets.spread, there.std)


def test_coordinates_that_the_linear_model_lacks_start_at_zero_with_a_spread():
    start = start_of(torch.randn(50, 2, generator=torch.Generator().manual_seed(1)))
    targets = first_targets(start, 4, seed=0)
    assert not targets.same_space
    there = start.on_landscape(0)
    assert torch.equal(targets.point[:, :2], there.mean) and (targets.point[:, 2:] == 0).all()
    assert (targets.spread[:, 2:] == MISSING_STD).all() and torch.equal(targets.teacher_point, there.mean)
    assert (targets.prior_std > 0).all()


def test_one_coordinate_runs_along_the_curve_of_several():
    """Three quarters of a circle in two of three coordinates: its angle is what one coordinate should order by."""
    generator = torch.Generator().manual_seed(4)
    angle = torch.rand(400, generator=generator) * 1.5 * torch.pi
    mean = torch.stack([angle.cos(), angle.sin(), 0 * angle], dim=1) + 0.03 * torch.randn(400, 3, generator=generator)
    start = start_of(mean, spread=0.03)
    targets = first_targets(start, 1, seed=0)
    assert targets.point.shape == targets.spread.shape == (400, 1) and not targets.same_space
    assert torch.equal(targets.teacher_point, start.on_landscape(0).mean)
    assert float(targets.point.std()) == pytest.approx(1, rel=1e-4) and (targets.spread > 0).all()
    ranks = np.argsort(np.argsort(np.stack([angle.numpy(), targets.point[:, 0].numpy()])))
    assert abs(np.corrcoef(ranks)[0, 1]) > 0.99


def test_fewer_coordinates_than_the_linear_model_s_are_finite_and_one_for_each_particle():
    start = start_of(torch.randn(60, 4, generator=torch.Generator().manual_seed(1)))
    targets = first_targets(start, 2, seed=0)
    assert targets.point.shape == targets.spread.shape == (60, 2) and targets.teacher_point.shape == (60, 4)
    assert torch.isfinite(targets.point).all() and (targets.spread > 0).all() and not targets.same_space


def test_the_prior_of_a_linear_start_holds_the_uncertainty_of_its_particles():
    generator = torch.Generator().manual_seed(3)
    truth = 2 * torch.randn(20_000, 1, generator=generator)
    start = start_of(0.8 * truth, spread=1.2)  # posterior of an observation with noise: variances add up to 4
    assert float(start.prior_std) == pytest.approx(2, rel=0.02)


def test_without_a_latent_space_there_is_no_landscape_to_lie_on():
    start = start_of(torch.zeros(30, 0))
    assert start.on_landscape(0) is start
