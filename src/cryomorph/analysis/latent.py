"""Analysis of latent points: principal components, clusters, Gaussian mixtures, outliers and trajectories."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from cryomorph.analysis.nearest import nearest_points
from cryomorph.config.console import warn
from cryomorph.config.errors import InputError

Latent = Float[np.ndarray, "n q"]

MINIBATCH_ABOVE = 200_000  # particles,
MOST_DISTANCES = 30_000_000  # or distances of particles to centres: 200,000 to 500 took 91 s, in mini-batches 2 s
MIXTURE_FIT_POINTS = 200_000


@dataclass(frozen=True)
class Pca:
    """Principal components of latent points: `projected = (z - mean) @ components.T`, in descending variance.

    The sign of each axis is such that its loading of largest magnitude is positive.
    """

    components: Float64[np.ndarray, "q q"]
    explained_ratio: Float64[np.ndarray, " q"]
    projected: Float64[np.ndarray, "n q"]
    mean: Float64[np.ndarray, " q"]


@dataclass(frozen=True)
class KMeansResult:
    """Clusters of latent points, numbered so that adjacent clusters tend to have adjacent numbers."""

    labels: Int64[np.ndarray, " n"]
    centre_index: Int64[np.ndarray, " k"]  # the particle of each cluster nearest its centre
    centres: Float64[np.ndarray, "k q"]

    @property
    def counts(self) -> Int64[np.ndarray, " k"]:
        """Number of particles in each cluster."""
        return np.bincount(self.labels, minlength=len(self.centres)).astype(np.int64)


@dataclass(frozen=True)
class GmmResult:
    """A Gaussian mixture with full covariances; components are numbered like clusters."""

    labels: Int64[np.ndarray, " n"]
    means: Float64[np.ndarray, "k q"]
    covariances: Float64[np.ndarray, "k q q"]
    weights: Float64[np.ndarray, " k"]
    probability: Float64[np.ndarray, "n k"]
    centre_index: Int64[np.ndarray, " k"]  # the particle nearest each mean, in units of that component's covariance


@dataclass(frozen=True)
class Outliers:
    """Outlying particles, `index`, in descending distance; the other arrays have an entry for every particle."""

    index: Int64[np.ndarray, " m"]
    norm: Float64[np.ndarray, " n"]  # |z|
    mahalanobis: Float64[np.ndarray, " n"]  # distance from the mean in units of the latent's own covariance
    score: Float64[np.ndarray, " n"]  # robust standard deviations of the distance that was cut
    cut: float  # the distance beyond which a particle is an outlier


def check_latent(z: Latent) -> Float64[np.ndarray, "n q"]:
    """Latent points in double precision.

    Raises:
        InputError: it is empty, or a row is not finite.
    """
    if z.size == 0:
        raise InputError(f"latent of shape {z.shape}: expected at least one particle and one dimension")
    bad = np.flatnonzero(~np.isfinite(z).all(axis=1))
    if len(bad):
        raise InputError(
            f"latent row {bad[0]} (0-based; {len(bad)} such rows) is not finite: "
            "leave these particles out or train again"
        )
    return z.astype(np.float64)


def principal_components(z: Latent) -> Pca:
    """Principal component analysis by the eigenvectors of the covariance matrix, whose size does not depend on `n`."""
    z64 = check_latent(z)
    mean = z64.mean(axis=0)
    centred = z64 - mean
    variance, vectors = np.linalg.eigh(centred.T @ centred)
    components = vectors.T[::-1]
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(len(largest)), largest])[:, None]
    variance = variance[::-1].clip(min=0)
    total = variance.sum()
    ratio = variance / total if total > 0 else np.zeros_like(variance)
    return Pca(components, ratio, centred @ components.T, mean)


def kmeans_on_data(z: Latent, k: int = 20, *, seed: int = 0) -> KMeansResult:
    """k-means clusters, and the particle nearest to each centre; in mini-batches if there are many particles.

    If there are fewer than `k` distinct points, there are as many clusters as points, with a warning.

    Raises:
        InputError: `k` is below 1 or above the number of particles.
    """
    z64 = check_latent(z)
    _check_count(k, len(z64), "clusters")
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    large = len(z64) > MINIBATCH_ABOVE or len(z64) * k > MOST_DISTANCES
    model = (
        MiniBatchKMeans(k, random_state=seed, n_init=5, batch_size=8192)
        if large
        else KMeans(k, random_state=seed, n_init=4)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said below in our words
        raw = model.fit_predict(z64)
    used, labels = np.unique(raw, return_inverse=True)
    if len(used) < k:
        warn(f"the latent holds only {len(used)} distinct groups of points: {len(used)} clusters instead of {k}")
    centres = model.cluster_centers_[used].astype(np.float64)
    order = neighbour_order(centres)
    rank = np.argsort(order)
    labels, centres = rank[labels].astype(np.int64), centres[order]
    distance = ((z64 - centres[labels]) ** 2).sum(axis=1)
    return KMeansResult(labels, _central_member(distance, labels, len(centres)), centres)


def gaussian_mixture(z: Latent, components: int = 5, *, seed: int = 0) -> GmmResult:
    """Gaussian mixture with full covariances by expectation-maximisation, best of three starts.

    Above 200,000 particles it is fitted to a random 200,000; every particle gets its label and probabilities.

    Raises:
        InputError: `components` is below 1 or above the number of particles.
    """
    z64 = check_latent(z)
    n = len(z64)
    _check_count(components, n, "mixture components")
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    # the floor of the covariance follows the latent's scale, so that the answer does not depend on its unit
    floor = max(1e-6 * float(z64.var(axis=0).mean()), 1e-12)
    model = GaussianMixture(
        components, covariance_type="full", reg_covar=floor, n_init=3, max_iter=300, random_state=seed
    )
    subset = z64
    if n > MIXTURE_FIT_POINTS:
        subset = z64[np.random.default_rng(seed).choice(n, MIXTURE_FIT_POINTS, replace=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(subset)
    if not model.converged_:
        warn(f"the Gaussian mixture of {components} components did not converge in 300 steps: try fewer components")
    order = neighbour_order(model.means_)
    probability = model.predict_proba(z64)[:, order]
    means, covariances = model.means_[order], model.covariances_[order]
    centre_index = np.empty(components, dtype=np.int64)
    for i, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        offset = z64 - mean
        centre_index[i] = (offset * np.linalg.solve(covariance, offset.T).T).sum(axis=1).argmin()
    labels = probability.argmax(axis=1).astype(np.int64)
    return GmmResult(labels, means, covariances, model.weights_[order], probability, centre_index)


def outliers(z: Latent, z_cut: float = 3.0) -> Outliers:
    """Particles whose `|z|` lies more than `z_cut` robust standard deviations above the median.

    The standard deviation is 1.4826 times the median absolute deviation, which outliers themselves do not inflate.

    Raises:
        InputError: `z_cut` is not positive.
    """
    if z_cut <= 0:
        raise InputError(f"outlier cut of {z_cut:g} standard deviations: expected a positive number, such as 3")
    z64 = check_latent(z)
    norm = np.linalg.norm(z64, axis=1)
    pca = principal_components(z64)
    spread = pca.projected.std(axis=0)
    kept = spread > 1e-9 * max(float(spread.max()), 1e-300)
    mahalanobis = np.linalg.norm(pca.projected[:, kept] / spread[kept], axis=1)
    median = float(np.median(norm))
    deviation = 1.4826 * float(np.median(np.abs(norm - median)))
    score = (norm - median) / deviation if deviation > 0 else np.zeros_like(norm)
    index = np.flatnonzero(score > z_cut)
    index = index[np.argsort(-norm[index], kind="stable")].astype(np.int64)
    return Outliers(index, norm, mahalanobis, score, median + z_cut * deviation)


def pc_trajectory(
    pca: Pca, component: int, *, points: int = 10, low: float = 5.0, high: float = 95.0
) -> Float64[np.ndarray, "points q"]:
    """Latent points along one principal component, evenly spaced from one percentile to another, the others at 0.

    Args:
        component: 0-based.
        low, high: percentiles of the particles' own positions along the component.

    Raises:
        InputError: there is no such component, the percentiles are not in order, or there are no points.
    """
    q = len(pca.components)
    if not 0 <= component < q:
        raise InputError(f"principal component {component} (0-based) of a latent of {q}: expected 0 to {q - 1}")
    if not 0 <= low < high <= 100:
        raise InputError(f"percentiles {low:g} and {high:g}: expected 0 <= low < high <= 100")
    if points < 1:
        raise InputError(f"{points} points along a principal component: expected at least 1")
    first, last = np.percentile(pca.projected[:, component], [low, high])
    position = np.linspace(first, last, points)
    return pca.mean + position[:, None] * pca.components[component]


def nearest_particles(z: Latent, targets: Float[np.ndarray, "t q"]) -> Int64[np.ndarray, " t"]:
    """The particle nearest each latent point, by Euclidean distance."""
    return nearest_points(check_latent(z), targets)


def neighbour_order(centres: Float[np.ndarray, "k q"]) -> Int64[np.ndarray, " k"]:
    """An order of points in which neighbours lie close: the optimal leaf order of their average-linkage tree.

    Bar-Joseph et al. 2001, Bioinformatics 17, S22. Of the two directions, the one that ascends along the first
    principal component of the points.
    """
    if len(centres) < 2:
        return np.arange(len(centres), dtype=np.int64)
    from scipy.cluster.hierarchy import leaves_list, linkage

    order = np.asarray(leaves_list(linkage(centres, "average", optimal_ordering=True)), dtype=np.int64)
    along = principal_components(np.asarray(centres)).projected[order, 0]
    descends = (along * (np.arange(len(order)) - (len(order) - 1) / 2)).sum() < 0
    return order[::-1].copy() if descends else order


def _central_member(
    distance: Float64[np.ndarray, " n"], labels: Int64[np.ndarray, " n"], k: int
) -> Int64[np.ndarray, " k"]:
    """The member of each cluster with the smallest distance, the first of equals."""
    order = np.lexsort((distance, labels))
    return order[np.searchsorted(labels[order], np.arange(k))].astype(np.int64)


def _check_count(k: int, n: int, what: str) -> None:
    if not 1 <= k <= n:
        raise InputError(f"{k} {what} of {n} particles: expected 1 to {n}")
