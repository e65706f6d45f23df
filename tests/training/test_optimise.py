"""Optimisers: Adam against its formula, Muon's orthogonal steps, gradients left out, memories put back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cryomorph.training.optimise import MUON_RATE, Optimisers


def network() -> nn.Sequential:
    """Two matrices that Muon may take, one that is too thin, and biases."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 2))


def fill_gradients(model: nn.Module, seed: int) -> list[np.ndarray]:
    """Random gradients, the same for the same seed, also as float64 arrays."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)
    return [np.asarray(weight.grad, dtype=np.float64) for weight in model.parameters()]


def weights_of(model: nn.Module) -> list[np.ndarray]:
    return [weight.detach().numpy().astype(np.float64) for weight in model.parameters()]


def test_adam_is_the_formula_of_kingma_and_ba():
    model = network()
    expected = weights_of(model)
    first, second = ([np.zeros_like(weight) for weight in expected] for _ in range(2))
    optimisers = Optimisers(model, "adam")
    for step, rate in enumerate((1e-2, 3e-2, 2e-2), start=1):
        for i, gradient in enumerate(fill_gradients(model, step)):
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            mean, square = first[i] / (1 - 0.9**step), second[i] / (1 - 0.999**step)
            expected[i] = expected[i] - rate * mean / (np.sqrt(square) + 1e-8)
        optimisers.step(rate)
    for found, wanted in zip(weights_of(model), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_muon_steps_matrices_along_the_nearest_orthogonal_one_and_the_rest_by_adam():
    model = network()
    before = weights_of(model)
    gradients = fill_gradients(model, 3)
    Optimisers(model, "muon").step(1e-2)
    for old, new, gradient in zip(before, weights_of(model), gradients, strict=True):
        move = old - new
        if gradient.ndim == 2 and min(gradient.shape) > 2:
            left, _, right = np.linalg.svd(gradient, full_matrices=False)
            nearest = left @ right
            cosine = (move * nearest).sum() / np.linalg.norm(move) / np.linalg.norm(nearest)
            assert cosine > 0.97  # five iterations of Newton and Schulz, and in bfloat16
            stretch = np.sqrt(max(1.0, gradient.shape[0] / gradient.shape[1]))
            singular = np.linalg.svd(move, compute_uv=False) / (MUON_RATE * 1e-2 * stretch)
            assert (singular > 0.5).all() and (singular < 1.4).all()
        else:  # Adam's first step has the length of its rate
            np.testing.assert_allclose(move, 1e-2 * np.sign(gradient), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_a_gradient_left_out_moves_no_weight_that_has_not_moved_yet(kind):
    model = network()
    before = weights_of(model)
    optimisers = Optimisers(model, kind)
    fill_gradients(model, 4)
    for weight, bad in zip(model.parameters(), (torch.nan, torch.inf, -torch.inf, 1.0, 1.0, 1.0), strict=True):
        assert weight.grad is not None
        weight.grad.view(-1)[0] = bad
    optimisers.step(1e-2, torch.tensor(0.0))
    for found, wanted in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert all(torch.isfinite(value).all() for value in optimisers.state().values())


@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_a_gradient_that_is_kept_is_stepped_along_as_without_a_judge(kind):
    judged, alone = network(), network()
    for model, keep in ((judged, torch.tensor(1.0)), (alone, None)):
        fill_gradients(model, 5)
        Optimisers(model, kind).step(1e-2, keep)
    for found, wanted in zip(weights_of(judged), weights_of(alone), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_norm_is_that_of_all_gradients_together():
    model = network()
    gradients = fill_gradients(model, 6)
    expected = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
    optimisers = Optimisers(model, "muon")
    np.testing.assert_allclose(float(optimisers.norm()), expected, rtol=1e-6)
    optimisers.zero_grad()
    assert all(weight.grad is None for weight in model.parameters())


def test_weights_that_need_no_gradient_are_left_alone():
    model = network()
    model[0].weight.requires_grad_(False)
    before = weights_of(model)[0]
    optimisers = Optimisers(model, "adam")
    assert len(optimisers.weights) == 5
    fill_gradients(model, 7)
    optimisers.step(1.0)
    np.testing.assert_array_equal(weights_of(model)[0], before)


@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_an_optimiser_put_back_goes_on_exactly(kind):
    """Three steps at a stretch, or one, then a new optimiser with the memory of the first, then two."""
    whole, parted = network(), network()
    optimisers = Optimisers(whole, kind)
    for seed in (1, 2, 3):
        fill_gradients(whole, seed)
        optimisers.step(1e-2)
    first = Optimisers(parted, kind)
    fill_gradients(parted, 1)
    first.step(1e-2)
    kept = {name: value.clone() for name, value in first.state().items()}
    second = Optimisers(parted, kind)
    second.restore(kept)
    for seed in (2, 3):
        fill_gradients(parted, seed)
        second.step(1e-2)
    for found, wanted in zip(weights_of(parted), weights_of(whole), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert second.state().keys() == optimisers.state().keys()


def test_putting_back_nothing_forgets():
    model = network()
    optimisers = Optimisers(model, "muon")
    fill_gradients(model, 1)
    optimisers.step(1e-2)
    assert optimisers.state()
    optimisers.restore({})
    assert not optimisers.state()


def test_what_is_put_back_is_a_copy():
    model = network()
    optimisers = Optimisers(model, "adam")
    fill_gradients(model, 1)
    optimisers.step(1e-2)
    kept = {name: value.clone() for name, value in optimisers.state().items()}
    held = {name: value.clone() for name, value in kept.items()}
    optimisers.restore(kept)
    fill_gradients(model, 2)
    optimisers.step(1e-2)
    assert all(torch.equal(kept[name], held[name]) for name in kept)
