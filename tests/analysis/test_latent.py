"""Latent analysis against numpy, scikit-learn and sets whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from cryomorph.analysis import latent
from cryomorph.analysis.latent import (
    gaussian_mixture,
    kmeans_on_data,
    nearest_particles,
    neighbour_order,
    outliers,
    pc_trajectory,
    principal_components,
)
from cryomorph.config.errors import InputError


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def oblique(rng):
    """Correlated, off-centre points: no axis is a principal one."""
    return (rng.normal(size=(400, 4)) * [3, 2, 1, 0.3]) @ rng.normal(size=(4, 4)) + [1, -2, 0, 5]


@pytest.fixture
def blobs(rng):
    """Six tight blobs along a line, given in shuffled order, with their true number."""
    truth = rng.integers(0, 6, size=900)
    place = np.array([[10.0 * i, 3.0 * i, 0.0] for i in range(6)])
    return place[truth] + 0.3 * rng.normal(size=(900, 3)), truth


def test_principal_components_match_sklearn_and_svd(oblique):
    pca = principal_components(oblique.astype(np.float32))
    reference = PCA().fit(oblique)
    np.testing.assert_allclose(pca.explained_ratio, reference.explained_variance_ratio_, rtol=1e-5)
    np.testing.assert_allclose(np.abs((pca.components * reference.components_).sum(axis=1)), 1, atol=1e-5)
    singular = np.linalg.svd(oblique - oblique.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(pca.projected, axis=0), singular, rtol=1e-5)
    np.testing.assert_allclose(pca.projected @ pca.components + pca.mean, oblique, atol=1e-5)


def test_principal_component_signs_do_not_depend_on_the_order_of_particles(oblique):
    first, second = principal_components(oblique), principal_components(oblique[::-1])
    np.testing.assert_allclose(first.components, second.components, atol=1e-10)
    assert (first.components.max(axis=1) >= -first.components.min(axis=1)).all()


def test_principal_components_of_a_collapsed_latent_are_finite():
    pca = principal_components(np.ones((20, 3), dtype=np.float32))
    assert (pca.explained_ratio == 0).all()
    np.testing.assert_array_equal(pca.projected, 0)


def test_rows_that_are_not_finite_are_named():
    z = np.zeros((5, 2))
    z[3, 1] = np.nan
    with pytest.raises(InputError, match=r"row 3 \(0-based; 1 such rows\)"):
        principal_components(z)


@pytest.mark.parametrize("minibatch", [None, "MINIBATCH_ABOVE", "MOST_DISTANCES"])
def test_kmeans_recovers_blobs_in_neighbour_order_with_centres_on_data(blobs, minibatch, monkeypatch):
    if minibatch:
        monkeypatch.setattr(latent, minibatch, 100)
        monkeypatch.setattr("sklearn.cluster.KMeans", None)  # not to be used
    z, truth = blobs
    result = kmeans_on_data(z, 6, seed=1)
    assert adjusted_rand_score(truth, result.labels) == 1
    # along a line, neighbours have neighbouring numbers: the labels are the truth itself
    np.testing.assert_array_equal(result.labels, truth)
    np.testing.assert_array_equal(result.counts, np.bincount(truth))
    for i, particle in enumerate(result.centre_index):
        members = np.flatnonzero(truth == i)
        distance = np.linalg.norm(z[members] - result.centres[i], axis=1)
        assert particle == members[distance.argmin()]
    if not minibatch:
        means = np.array([z[truth == i].mean(axis=0) for i in range(6)])
        np.testing.assert_allclose(result.centres, means, atol=1e-6)


def test_kmeans_is_the_same_for_the_same_seed(blobs):
    first, second = (kmeans_on_data(blobs[0], 9, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.centre_index, second.centre_index)


def test_kmeans_of_few_distinct_points_gives_as_many_clusters(capfd):
    z = np.repeat(np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]]), 10, axis=0)
    result = kmeans_on_data(z, 8)
    assert len(result.centres) == 3
    assert result.counts.tolist() == [10, 10, 10]
    assert "3 clusters instead of 8" in capfd.readouterr().err
    with pytest.raises(InputError, match="40 clusters of 30 particles"):
        kmeans_on_data(z, 40)


def test_neighbour_order_walks_a_curve(rng):
    angle = np.linspace(0, 1.5 * np.pi, 15)
    shuffle = rng.permutation(15)
    curve = np.stack([np.cos(angle), np.sin(angle)], axis=1)[shuffle]
    walked = shuffle[neighbour_order(curve)]
    assert set(np.abs(np.diff(walked)).tolist()) == {1}
    assert neighbour_order(np.zeros((1, 2))).tolist() == [0]


def test_gaussian_mixture_recovers_means_covariances_and_weights(rng):
    weights = np.array([0.2, 0.3, 0.5])
    means = np.array([[-8.0, 0.0], [0.0, 4.0], [9.0, 0.0]])
    covariances = np.array([[[1.0, 0.6], [0.6, 1.0]], [[0.5, 0.0], [0.0, 2.0]], [[1.5, -0.9], [-0.9, 1.0]]])
    truth = rng.choice(3, size=6000, p=weights)
    z = np.array([rng.multivariate_normal(means[t], covariances[t]) for t in truth])
    result = gaussian_mixture(z, 3, seed=0)
    np.testing.assert_allclose(result.means, means, atol=0.15)
    np.testing.assert_allclose(result.covariances, covariances, atol=0.2)
    np.testing.assert_allclose(result.weights, weights, atol=0.03)
    np.testing.assert_allclose(result.probability.sum(axis=1), 1, atol=1e-9)
    assert (result.labels == truth).mean() > 0.99
    assert (np.linalg.norm(z[result.centre_index] - means, axis=1) < 0.4).all()
    larger_unit = gaussian_mixture(1000 * z, 3, seed=0)
    np.testing.assert_array_equal(larger_unit.labels, result.labels)


def test_outliers_are_those_planted_farthest_first(rng):
    z = rng.normal(size=(2000, 6))
    planted = np.array([5, 800, 1999])
    z[planted] *= np.array([20, 40, 30])[:, None] / np.linalg.norm(z[planted], axis=1)[:, None]
    found = outliers(z, 6.0)
    assert found.index.tolist() == [800, 1999, 5]
    np.testing.assert_allclose(found.norm, np.linalg.norm(z, axis=1))
    inverse = np.linalg.inv(np.cov(z.T, bias=True))
    offset = z - z.mean(axis=0)
    np.testing.assert_allclose(found.mahalanobis, np.sqrt(np.einsum("ni,ij,nj->n", offset, inverse, offset)))
    assert (found.norm[found.index] > found.cut).all()
    assert np.delete(found.norm, found.index).max() <= found.cut


def test_outliers_of_a_collapsed_latent_are_none():
    found = outliers(np.zeros((30, 2)))
    assert len(found.index) == 0
    assert np.isfinite(found.mahalanobis).all()


def test_pc_trajectory_spans_the_percentiles_with_other_components_at_their_mean(oblique):
    pca = principal_components(oblique)
    path = pc_trajectory(pca, 1, points=7, low=5.0, high=95.0)
    projected = (path - oblique.mean(axis=0)) @ pca.components.T
    ends = np.percentile(pca.projected[:, 1], [5, 95])
    np.testing.assert_allclose(projected[:, 1], np.linspace(*ends, 7))
    np.testing.assert_allclose(np.delete(projected, 1, axis=1), 0, atol=1e-10)
    with pytest.raises(InputError, match="component 4"):
        pc_trajectory(pca, 4)


def test_nearest_particles_match_brute_force(oblique, rng):
    targets = rng.normal(size=(12, 4))
    distance = np.linalg.norm(oblique[:, None] - targets, axis=2)
    np.testing.assert_array_equal(nearest_particles(oblique, targets), distance.argmin(axis=0))
