"""A curved line in a space of several dimensions as one coordinate along it."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float32

LANDMARKS = 2000
NEIGHBOURS = 20
CHUNK = 10_000


def unrolled(points: Float32[np.ndarray, "n q"], *, seed: int = 0) -> Float32[np.ndarray, " n"]:
    """Distance along a curve, by Isomap on landmark points (Tenenbaum et al. 2000); mean 0, standard deviation 1.

    The first principal component of a curve folds where the curve turns back; the length along it does not. Clusters
    that are apart are joined where they come nearest.
    """
    from sklearn.manifold import Isomap

    order = np.random.default_rng(seed).permutation(len(points))[:LANDMARKS]
    neighbours = min(NEIGHBOURS, len(order) - 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of connected components")
        warnings.filterwarnings("ignore", "Changing the sparsity structure")
        fitted = Isomap(n_neighbors=neighbours, n_components=1).fit(points[order])
        parts = [fitted.transform(part)[:, 0] for part in np.array_split(points, -(-len(points) // CHUNK))]
    along = np.concatenate(parts)
    return ((along - along.mean()) / max(along.std(), 1e-12)).astype(np.float32)
