"""UMAP of well-separated blobs, in this process and in one of its own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from cryomorph.analysis.umap_embedding import umap_embedding, umap_process
from cryomorph.config.errors import InputError


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Six tight blobs along a line, in shuffled order, with the true number of each point."""
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 6, size=500)
    place = np.array([[10.0 * i, 3.0 * i, 0.0] for i in range(6)])
    return (place[truth] + 0.3 * rng.normal(size=(500, 3))).astype(np.float32), truth


@pytest.fixture(scope="module")
def embedding(blobs) -> np.ndarray:
    found = umap_embedding(blobs[0], seed=2)
    assert found is not None and found.shape == (500, 2)
    return found


@pytest.mark.slow
def test_umap_keeps_blobs_apart_and_places_the_rest(blobs, embedding):
    z, truth = blobs
    assert umap_embedding(z[:, :1]) is None
    np.testing.assert_array_equal(embedding, umap_embedding(z, seed=2))
    placed = umap_embedding(z, seed=2, max_points=350)
    for found in (embedding, placed):
        assert found is not None and np.isfinite(found).all()
        distance = np.linalg.norm(found[:, None] - found, axis=2)
        np.fill_diagonal(distance, np.inf)
        assert (truth[distance.argmin(axis=1)] == truth).mean() > 0.98
    with pytest.raises(InputError, match="at least 10"):
        umap_embedding(z[:6])


def test_another_process_finds_the_same(blobs, embedding, capfd):
    with umap_process(blobs[0], seed=2) as process:
        np.testing.assert_array_equal(process.result(), embedding)
    assert "UMAP of 500 points, in the background" in capfd.readouterr().err


def test_where_the_process_fails_it_is_done_here(blobs, embedding, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with umap_process(blobs[0], seed=2) as process:
        np.testing.assert_array_equal(process.result(), embedding)


def test_the_process_ends_with_the_block(blobs):
    with pytest.raises(KeyboardInterrupt), umap_process(blobs[0]) as process:
        child: subprocess.Popen[bytes] = process._process
        raise KeyboardInterrupt
    assert child.poll() is not None
