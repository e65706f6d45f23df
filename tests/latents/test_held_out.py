"""Held-out R^2 against scikit-learn's score, and against what signal and noise share."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor

from cryomorph.latents.held_out import held_out_r2, r2, view_r2


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_r2_is_scikit_learn_s_weighted_by_variance(rng):
    truth = rng.normal(size=(50, 3)) * (1, 5, 0.1)
    predicted = truth + rng.normal(size=(50, 3))
    assert r2(truth, predicted) == pytest.approx(r2_score(truth, predicted, multioutput="variance_weighted"))
    assert np.isnan(r2(np.ones((4, 2)), np.zeros((4, 2))))


def test_one_half_predicts_the_other(rng):
    known, wanted = rng.normal(size=(2, 401, 2))
    wanted += known
    order = np.random.default_rng(5).permutation(401)
    model = KNeighborsRegressor(7).fit(known[order[:200]], wanted[order[:200]])
    expected = r2_score(wanted[order[200:]], model.predict(known[order[200:]]), multioutput="variance_weighted")
    assert held_out_r2(known, wanted, neighbours=7, seed=5) == pytest.approx(expected)


def test_one_quantity_tells_of_another_all_nothing_or_what_they_share(rng):
    angle = rng.uniform(0, 2 * np.pi, 4000)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert held_out_r2(circle, circle @ [[0.0, 1], [1, 0]]) > 0.99
    # the sine tells half of the variance of a circle: its own, and nothing of the sign of the cosine
    assert held_out_r2(circle[:, 1:], circle) == pytest.approx(0.5, abs=0.03)
    assert abs(held_out_r2(rng.normal(size=(4000, 2)), circle)) < 0.05
    assert np.isnan(held_out_r2(circle, np.ones((4000, 1))))
    # z = x + noise of the same variance, both Gaussian: half of x's variance can be told
    x = rng.normal(size=(8000, 1))
    assert held_out_r2(x + rng.normal(size=x.shape), x) == pytest.approx(0.5, abs=0.04)
    uniform = rng.uniform(size=(4000, 2))
    assert held_out_r2(uniform * (1, -3) + 2, uniform) > 0.97


def test_latent_points_that_know_nothing_of_the_view_predict_none_of_it(rng):
    view = rng.standard_normal((2000, 3)).astype(np.float32)
    view /= np.linalg.norm(view, axis=1, keepdims=True)
    assert view_r2(rng.standard_normal((2000, 3)).astype(np.float32), view) < 0.02
    assert view_r2(view, view) > 0.9
    assert view_r2(view[:100], view[:100]) == 0  # too few to tell
    assert view_r2(np.zeros((400, 0), np.float32), view[:400]) == 0
