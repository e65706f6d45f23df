"""R^2 of one quantity predicted from another, on data that the prediction has not seen."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

NEIGHBOURS = 50
VIEW_NEIGHBOURS = 30
MIN_PER_NEIGHBOUR = 4  # particles for each of them, below which a prediction of the view says nothing


def r2(truth: Float[np.ndarray, "n p"], predicted: Float[np.ndarray, "n p"]) -> float:
    """`1 - |truth - predicted|^2 / |truth - mean|^2` over all columns together; NaN where the truth does not vary."""
    spread = np.square(truth - truth.mean(axis=0), dtype=np.float64).sum()
    return float(1 - np.square(truth - predicted, dtype=np.float64).sum() / spread) if spread > 0 else float("nan")


def held_out_r2(
    known: Float[np.ndarray, "n p"], wanted: Float[np.ndarray, "n q"], *, neighbours: int = NEIGHBOURS, seed: int = 0
) -> float:
    """R^2 of one quantity predicted from another by nearest neighbours: one random half predicts the other half.

    A prediction is the mean over the nearest particles of the first half. All coordinates are taken together, so that
    each counts by its variance.
    """
    from sklearn.neighbors import KNeighborsRegressor

    order = np.random.default_rng(seed).permutation(len(known))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    model = KNeighborsRegressor(min(neighbours, len(first))).fit(known[first], wanted[first])
    return r2(wanted[second].astype(np.float64), model.predict(known[second]))


def view_r2(latent: Float32[np.ndarray, "n zdim"], view: Float32[np.ndarray, "n 3"]) -> float:
    """Held-out R^2 of the viewing direction predicted from the latent point; 0 for few particles or no latent space."""
    if latent.shape[1] == 0 or len(latent) < MIN_PER_NEIGHBOUR * VIEW_NEIGHBOURS:
        return 0.0
    return held_out_r2(latent, view, neighbours=VIEW_NEIGHBOURS)
