"""Scores on plain arrays: how well maps match the truth, and how well a latent space predicts it.

docs/methods.md, "Metrics".
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64, Num

from cryomorph.analysis.latent import principal_components
from cryomorph.config.errors import InputError
from cryomorph.latents.held_out import held_out_r2

NEIGHBOURS_CLASS = 25
SMALLEST_GAP = 1e-3  # between consensus and oracle: for smaller gaps noise dominates the share that is closed


def fsc_area(curve: Num[np.ndarray, " shells"], *, clip: bool = True) -> float:
    """Area under an FSC curve: its mean over shells 1 to `box/2 - 1`, with negative values set to 0.

    Args:
        curve: entry `i` is shell `i`; shell 0 is left out, since the mean of a map is arbitrary.
        clip: False keeps negative values; it matters in shells that contain only noise.
    """
    values = curve[1:].astype(np.float64)
    return float((np.clip(values, 0, None) if clip else values).mean())


def gap_closed(method: float, consensus: float, oracle: float) -> float:
    """Position of a score between the consensus (0) and the oracle (1); NaN where these differ by less than 0.001."""
    gap = oracle - consensus
    return float((method - consensus) / gap) if gap >= SMALLEST_GAP else float("nan")


def rank_correlation(z: Num[np.ndarray, "n q"], coord: Num[np.ndarray, "n d"]) -> tuple[float, float]:
    """|Spearman| correlation of PC1, and of the best PC, with the true coordinates; means over coordinates."""
    from scipy.stats import rankdata

    def standardised(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        ranks = rankdata(values, axis=0)
        ranks -= ranks.mean(axis=0)
        return ranks / np.maximum(np.sqrt((ranks**2).sum(axis=0)), 1e-12)

    correlation = np.abs(standardised(principal_components(z).projected).T @ standardised(coord.astype(np.float64)))
    return float(correlation[0].mean()), float(correlation.max(axis=0).mean())


def knn_accuracy(z: Num[np.ndarray, "n q"], label: Int64[np.ndarray, " n"], *, seed: int = 0) -> float:
    """Share of states predicted correctly from the 25 nearest latent points: one random half predicts the other."""
    from sklearn.neighbors import KNeighborsClassifier

    known, asked = _halves(len(z), seed)
    neighbours = min(NEIGHBOURS_CLASS, len(known))
    return float(KNeighborsClassifier(neighbours).fit(z[known], label[known]).score(z[asked], label[asked]))


def cluster_entropy(cluster: Int64[np.ndarray, " n"], label: Int64[np.ndarray, " n"]) -> float:
    """Mean over clusters of `-sum p log10 p`, `p` the share of each true state in the cluster (OPUS-DSD, Figure S2)."""
    _, cluster_of = np.unique(cluster, return_inverse=True)
    _, state_of = np.unique(label, return_inverse=True)
    table = np.zeros((cluster_of.max() + 1, state_of.max() + 1))
    np.add.at(table, (cluster_of, state_of), 1)
    share = table / table.sum(axis=1, keepdims=True)
    return float(-(share * np.log10(np.where(share > 0, share, 1))).sum(axis=1).mean())


def cluster_scores(z: Num[np.ndarray, "n q"], label: Int64[np.ndarray, " n"], *, seed: int = 0) -> dict[str, float]:
    """ARI and NMI of as many k-means clusters, and Gaussians, as there are states; entropy of the k-means clusters."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.mixture import GaussianMixture

    states = len(np.unique(label))
    scaled = (z - z.mean(axis=0)) / max(float(z.std()), 1e-12)
    found = {
        "kmeans": KMeans(states, n_init=10, random_state=seed).fit_predict(scaled).astype(np.int64),
        "gmm": GaussianMixture(states, reg_covar=1e-5, random_state=seed).fit_predict(scaled.astype(np.float64)),
    }
    scores = {"entropy10": cluster_entropy(found["kmeans"], label)}
    for name, cluster in found.items():
        scores[f"ari_{name}"] = float(adjusted_rand_score(label, cluster))
        scores[f"nmi_{name}"] = float(normalized_mutual_info_score(label, cluster))
    return scores


def latent_scores(
    z: Num[np.ndarray, "n q"], label: Int64[np.ndarray, " n"], coord: Num[np.ndarray, "n d"], *, discrete: bool
) -> dict[str, float]:
    """All scores of a latent space: clusters against states where they are discrete, else rank and regression.

    Raises:
        InputError: a latent is not finite.
    """
    if not np.isfinite(z).all():
        row = int(np.flatnonzero(~np.isfinite(z).all(axis=1))[0])
        raise InputError(f"the latent of particle {row} (0-based) is not finite: the training diverged; train again")
    if z.shape[1] == 0 or len(z) < 4 or len(np.unique(label)) < 2:
        return {}
    if discrete:
        return {"knn_accuracy": knn_accuracy(z, label)} | cluster_scores(z, label)
    pc1, best = rank_correlation(z, coord)
    return {"knn_r2": held_out_r2(z, coord), "spearman_pc1": pc1, "spearman_best": best}


def _halves(n: int, seed: int) -> tuple[Int64[np.ndarray, " a"], Int64[np.ndarray, " b"]]:
    order = np.random.default_rng(seed).permutation(n)
    return order[: n // 2], order[n // 2 :]
