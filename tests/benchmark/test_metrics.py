"""Scores against closed forms and against scikit-learn and scipy."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA

from cryomorph.benchmark.metrics import (
    cluster_entropy,
    cluster_scores,
    fsc_area,
    gap_closed,
    knn_accuracy,
    latent_scores,
    rank_correlation,
)
from cryomorph.config.errors import InputError


def test_the_area_leaves_shell_0_out_and_counts_negative_values_as_0() -> None:
    curve = np.array([-1.0, 1.0, 0.5, -0.3])
    assert fsc_area(curve) == pytest.approx(0.5)
    assert fsc_area(curve, clip=False) == pytest.approx(0.4)


def test_gap_closed_is_0_at_the_consensus_and_1_at_the_oracle() -> None:
    assert gap_closed(0.8, 0.8, 0.9) == pytest.approx(0)
    assert gap_closed(0.9, 0.8, 0.9) == pytest.approx(1)
    assert gap_closed(0.85, 0.8, 0.9) == pytest.approx(0.5)
    assert gap_closed(0.7, 0.8, 0.9) == pytest.approx(-1)
    assert np.isnan(gap_closed(0.5, 0.8, 0.8))


def test_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(0)
    coord = rng.normal(size=(300, 1))
    z = np.column_stack([rng.normal(0, 9, 300), np.tanh(coord[:, 0]) + rng.normal(0, 0.3, 300)])
    pc1, best = rank_correlation(z, coord)
    components = PCA().fit_transform(z)
    expected = [abs(spearmanr(component, coord[:, 0]).statistic) for component in components.T]
    assert pc1 == pytest.approx(expected[0], abs=1e-9)
    assert best == pytest.approx(max(expected), abs=1e-9) and best > 0.8
    ties = np.round(coord)
    assert rank_correlation(coord, ties)[0] == pytest.approx(spearmanr(coord, ties).statistic)


def test_entropy_of_pure_and_of_mixed_clusters() -> None:
    label = np.repeat(np.arange(8), 100)
    assert cluster_entropy(7 - label, label) == pytest.approx(0)
    mixed = np.tile(np.arange(4), 200)
    assert cluster_entropy(mixed, label) == pytest.approx(np.log10(8))  # the paper's 0.903 for uniform clusters
    assert cluster_entropy(np.array([0, 0, 1, 1]), np.array([3, 9, 9, 9])) == pytest.approx(np.log10(2) / 2)


def test_clusters_that_lie_apart_are_found_and_noise_is_not() -> None:
    z, label = make_blobs(600, n_features=3, centers=4, cluster_std=0.2, random_state=0)
    found = cluster_scores(z, label.astype(np.int64))
    assert all(
        found[f"{score}_{method}"] == pytest.approx(1) for score in ("ari", "nmi") for method in ("kmeans", "gmm")
    )
    assert found["entropy10"] == pytest.approx(0)
    assert knn_accuracy(z, label.astype(np.int64)) == pytest.approx(1)
    shuffled = np.random.default_rng(0).permutation(label).astype(np.int64)
    assert abs(cluster_scores(z, shuffled)["ari_kmeans"]) < 0.03
    assert knn_accuracy(z, shuffled) == pytest.approx(0.25, abs=0.08)


def test_scores_that_make_no_sense_are_left_out_or_refused() -> None:
    label, coord = np.arange(40), np.arange(40.0)[:, None]
    z = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    assert set(latent_scores(z, label, coord, discrete=False)) == {"knn_r2", "spearman_pc1", "spearman_best"}
    assert latent_scores(z[:, :0], label, coord, discrete=False) == {}
    assert latent_scores(z, np.zeros_like(label), coord * 0, discrete=True) == {}
    z[7, 1] = np.nan
    with pytest.raises(InputError, match="particle 7"):
        latent_scores(z, label, coord, discrete=False)
