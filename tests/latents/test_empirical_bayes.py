"""The landscape's own density as a prior: against the posterior written out, and against Gaussians in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cryomorph.latents import empirical_bayes as landscape_prior
from cryomorph.latents.empirical_bayes import MAX_SUPPORT, MIN_STD, empirical_bayes_posterior


def observed(truth: np.ndarray, noise: np.ndarray, prior: np.ndarray, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Posteriors under `N(0, prior^2)` of points seen with Gaussian noise."""
    seen = truth + noise * np.random.default_rng(seed).normal(size=truth.shape)
    variance = 1 / (noise**-2.0 + prior**-2.0)
    std = np.broadcast_to(np.sqrt(variance), truth.shape)
    return torch.from_numpy(seen * variance / noise**2).float(), torch.from_numpy(std.copy()).float()


def brute_force(mean: Tensor, std: Tensor, prior: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """The same in double precision, one particle and one support point at a time."""
    m, s = mean.double().numpy(), std.double().numpy()
    variance = 1 / (s**-2.0 - prior**-2.0)
    best = m * variance / s**2
    weight = np.full(len(m), 1 / len(m))

    def share(i: int) -> np.ndarray:
        likelihood = [np.exp(-0.5 * ((best[i] - point) ** 2 / variance[i]).sum()) for point in m]
        return weight * likelihood / (weight * likelihood).sum()

    for _ in range(iterations):
        weight = np.mean([share(i) for i in range(len(m))], axis=0)
    shares = [share(i) for i in range(len(m))]
    found = np.array([sum(p * point for p, point in zip(row, m, strict=True)) for row in shares])
    squares = [(row[:, None] * (m - centre) ** 2).sum(0) for row, centre in zip(shares, found, strict=True)]
    return found, np.sqrt(squares)


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_it_is_the_posterior_on_the_support_points(iterations):
    rng = np.random.default_rng(0)
    prior = np.array([1.5, 0.7, 1.0])
    noise = rng.uniform(0.3, 1.2, (40, 3))
    mean, std = observed(rng.normal(size=(40, 3)) * prior, noise, prior)
    found, spread = empirical_bayes_posterior(mean, std, torch.from_numpy(prior).float(), iterations=iterations)
    expected, width = brute_force(mean, std, prior, iterations)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(spread, np.maximum(width, MIN_STD * prior), rtol=5e-3, atol=1e-4)


def test_clusters_shrink_within_and_never_across():
    """Two clusters 20 of their noise apart: each particle comes nearer to its own, none to the other."""
    rng = np.random.default_rng(1)
    side = np.where(rng.random(600) < 0.3, -1.0, 1.0)
    truth = np.stack([10 * side, np.zeros(600)], axis=1) + 0.1 * rng.normal(size=(600, 2))
    prior = truth.std(0) + 1
    mean, std = observed(truth, np.ones((600, 2)), prior)
    found, spread = empirical_bayes_posterior(mean, std, torch.from_numpy(prior).float())
    x = found.numpy()
    assert (np.sign(x[:, 0]) == side).all()
    for sign in (-1.0, 1.0):
        own = side == sign
        best = mean.numpy()[own] * (1 + 1 / prior**2)
        assert (x[own].std(0) < 0.75 * best.std(0)).all()
        assert np.abs(x[own].mean(0) - mean.numpy()[own].mean(0)).max() < 0.1
    assert float(spread[:, 0].max()) < 2  # not the distance of the clusters
    # what was not known of each is known better: the density says the rest
    error = np.linalg.norm(x - truth, axis=1).mean()
    before = np.linalg.norm(mean.numpy() - truth, axis=1).mean()
    assert error < 0.8 * before


def test_a_gaussian_population_shrinks_to_the_posterior_under_its_own_prior():
    """All Gaussian: support of variance v, one iteration of EM to v', then the mean is `best v' / (v' + noise^2)`."""
    n, sigma, noise, prior = 4000, 2.0, 1.5, 2.0
    truth = sigma * np.random.default_rng(2).normal(size=(n, 1))
    truth = (truth - truth.mean()) / truth.std() * sigma
    mean, std = observed(truth, np.full((n, 1), noise), np.array([prior]))
    best = mean.numpy() * (1 + noise**2 / prior**2)
    v = float(mean.numpy().var())
    gain = v / (v + noise**2)
    after = gain**2 * best.var() + gain * noise**2
    found, spread = empirical_bayes_posterior(mean, std, torch.tensor([prior]))
    expected = best.mean() + (best - best.mean()) * after / (after + noise**2)
    near = np.abs(best) < 2 * best.std()  # in the tails support points are few
    np.testing.assert_allclose(found.numpy()[near], expected[near], atol=0.12)
    assert float(found.mean()) == pytest.approx(float(mean.mean()), abs=0.05)
    width = np.sqrt(after * noise**2 / (after + noise**2))
    assert float(spread.median()) == pytest.approx(width, rel=0.05)


def test_many_iterations_find_the_prior_that_was_there():
    """Deconvolved: the spread of the support's weights is the population's own, not the shrunken one of the points."""
    n, sigma, noise = 3000, 1.0, 0.8
    truth = sigma * np.random.default_rng(3).normal(size=(n, 1))
    mean, std = observed(truth, np.full((n, 1), noise), np.array([sigma]))
    found, _ = empirical_bayes_posterior(mean, std, torch.tensor([sigma]), iterations=30)
    best = mean.numpy() * (1 + noise**2 / sigma**2)
    exact = best * sigma**2 / (sigma**2 + noise**2)
    # as good as the exact posterior means that know the prior
    assert np.square(found.numpy() - truth).mean() < 1.05 * np.square(exact - truth).mean()


def test_a_particle_of_which_its_image_says_nothing_lies_at_the_mean_of_the_others():
    rng = np.random.default_rng(4)
    truth = np.array([3.0, -2.0]) + 0.3 * rng.normal(size=(200, 2))
    prior = np.array([3.0, 3.0])
    mean, std = observed(truth, np.full((200, 2), 0.05), prior)
    mean[0], std[0] = 0.0, torch.from_numpy(prior).float()
    found, spread = empirical_bayes_posterior(mean, std, torch.from_numpy(prior).float(), iterations=0)
    # the support holds the particle itself too
    expected = mean.mean(0)
    torch.testing.assert_close(found[0], expected, atol=0.02, rtol=0)
    np.testing.assert_allclose(spread[0], mean.numpy().std(0), rtol=0.05)


def test_a_coordinate_of_which_the_image_says_nothing_is_told_by_the_others():
    """On a line through two dimensions, the one that was seen says where the other lies."""
    rng = np.random.default_rng(5)
    t = rng.uniform(-2, 2, 400)
    truth, prior = np.stack([t, -t], axis=1), np.array([1.2, 1.2])
    noise = np.full((400, 2), 0.05)
    noise[:50, 1] = 1e3
    mean, std = observed(truth, noise, prior)
    found, _ = empirical_bayes_posterior(mean, std, torch.from_numpy(prior).float(), iterations=1)
    # the 50 lie on the support with the coordinate at 0 themselves: the others outweigh them
    error = np.abs(found.numpy()[:50, 1] - truth[:50, 1])
    assert np.median(error) < 0.4 * np.median(np.abs(truth[:50, 1]))


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(6)
    mean, std = observed(rng.normal(size=(100, 2)), np.full((100, 2), 0.6), np.ones(2))
    whole = empirical_bayes_posterior(mean, std, torch.ones(2))
    monkeypatch.setattr(landscape_prior, "CHUNK", 700)
    found = empirical_bayes_posterior(mean, std, torch.ones(2))
    torch.testing.assert_close(found, whole)


def test_a_large_set_is_supported_by_some_of_its_particles(monkeypatch):
    """The choice is the seed's; every answer lies among the support points, so does that of the few."""
    assert MAX_SUPPORT >= 1000
    monkeypatch.setattr(landscape_prior, "MAX_SUPPORT", 60)
    rng = np.random.default_rng(7)
    mean, std = observed(rng.normal(size=(500, 1)), np.full((500, 1), 0.5), np.ones(1))
    one, again = (empirical_bayes_posterior(mean, std, torch.ones(1), seed=1)[0] for _ in range(2))
    other = empirical_bayes_posterior(mean, std, torch.ones(1), seed=2)[0]
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert float((one - other).abs().mean()) < 0.2
    assert float(one.min()) > float(mean.min()) and float(one.max()) < float(mean.max())


def test_points_far_from_the_origin_lose_no_digits():
    """Distances are taken apart into squares: an offset of all must not change what is found."""
    rng = np.random.default_rng(8)
    truth = rng.normal(size=(60, 2))
    prior = np.array([1e4, 1e4])  # flat, so that an offset stays one
    mean, std = observed(truth, np.full((60, 2), 0.3), prior)
    at_home, _ = empirical_bayes_posterior(mean, std, torch.from_numpy(prior).float())
    away, _ = empirical_bayes_posterior(mean + 20, std, torch.from_numpy(prior).float())
    torch.testing.assert_close(away - 20, at_home, atol=2e-2, rtol=0)
