"""Two-dimensional UMAP of latent points, here or in a process of its own while this one does other work.

This file imports neither torch nor the rest of the analysis: the process starts with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cryomorph.analysis.latent import check_latent
from cryomorph.config.console import say, track
from cryomorph.config.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Float32

MIN_POINTS = 10
FIT_POINTS = 50_000  # more are placed into the embedding of a random 50,000: time and memory stay bounded
CHUNK = 25_000  # particles placed at a time
COMPILED = (
    ("umap.umap_", "smooth_knn_dist"),
    ("umap.umap_", "compute_membership_strengths"),
    ("umap.layouts", "_nb_optimize_layout_euclidean_single_epoch"),
)


def umap_embedding(
    z: Float[np.ndarray, "n q"],
    *,
    neighbours: int = 15,
    min_distance: float = 0.1,
    seed: int = 0,
    max_points: int = FIT_POINTS,
) -> Float32[np.ndarray, "n 2"] | None:
    """Two-dimensional UMAP (McInnes et al. 2018), the same for the same seed; None for a latent of one dimension.

    Beyond `max_points` particles a random subset is embedded and the others are placed into it. A fixed seed means one
    thread; on two cores that was no slower than UMAP's own threads (20,000 points: 8 s against 20 s).

    Raises:
        InputError: there are fewer than 10 particles, or a latent point is not finite.
    """
    if z.shape[1] == 1:
        return None
    n = len(check_latent(z))
    if n < MIN_POINTS:
        raise InputError(f"UMAP of {n} points: expected at least {MIN_POINTS}; leave UMAP out (--no-umap)")
    from sklearn.neighbors import NearestNeighbors
    from umap import UMAP

    _keep_compiled()
    points = np.ascontiguousarray(z, dtype=np.float32)
    neighbours = min(neighbours, n - 1)
    shown = {"desc": "UMAP", "leave": False, "disable": None}  # None: no bar where standard error is not a terminal
    model = {"n_neighbors": neighbours, "min_dist": min_distance, "random_state": seed, "n_jobs": 1}
    if n <= max_points:
        # exact neighbours are cheap in few dimensions, and spare the compilation of UMAP's approximate search
        distance, index = NearestNeighbors(n_neighbors=neighbours).fit(points).kneighbors(points)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "transforming new data ... will be unavailable"
            found = (index, distance.astype(np.float32))
            fitted_points: Float32[np.ndarray, "n 2"]
            fitted_points = UMAP(**model, precomputed_knn=found, tqdm_kwds=shown).fit_transform(points)
            return fitted_points.astype(np.float32)
    order = np.random.default_rng(seed).permutation(n)
    fitted, rest = np.sort(order[:max_points]), np.sort(order[max_points:])
    embedding = np.empty((n, 2), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        reducer = UMAP(**model, tqdm_kwds=shown)
        embedding[fitted] = reducer.fit_transform(points[fitted])
        reducer.tqdm_kwds["disable"] = True  # one bar over the chunks instead
        chunks = np.array_split(rest, -(-len(rest) // CHUNK))
        for chunk in track(chunks, "UMAP, remaining particles"):
            embedding[chunk] = reducer.transform(points[chunk])
    return embedding


class UmapProcess:
    """A UMAP that is computed in a process of its own from the start on; `result` waits for it."""

    def __init__(self, z: Float[np.ndarray, "n q"], folder: Path, options: dict[str, Any]) -> None:
        self._z, self._options = z, options
        self._output = folder / "embedding.npy"
        points = folder / "points.npy"
        np.save(points, z)
        # where this process finds its packages, that one does too
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-P", "-m", __name__, str(points), str(self._output), json.dumps(options)]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def result(self) -> Float32[np.ndarray, "n 2"] | None:
        """The embedding; computed here if the process failed."""
        if self._process.wait() == 0:
            with suppress(OSError, ValueError):
                return np.asarray(np.load(self._output, allow_pickle=False))
        return umap_embedding(self._z, **self._options)

    def stop(self) -> None:
        """End the process if it still runs."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


@contextmanager
def umap_process(z: Float[np.ndarray, "n q"], **options: Any) -> Iterator[UmapProcess]:
    """Start `umap_embedding` in another process, which ends with the block at the latest.

    Args:
        options: of `umap_embedding`.
    """
    say(f"UMAP of {len(z):,} points, in the background; its first use on a machine compiles for some 10 to 30 s")
    with tempfile.TemporaryDirectory(prefix="cryomorph-umap-") as folder:
        process = UmapProcess(z, Path(folder), options)
        try:
            yield process
        finally:
            process.stop()


def _keep_compiled() -> None:
    """Have numba keep what it compiles of umap-learn, as it does for pynndescent: 5 s saved in each later process."""
    from importlib import import_module

    for module, name in COMPILED:
        function = getattr(import_module(module), name, None)
        with suppress(AttributeError, RuntimeError):  # another version of umap-learn; nowhere to write
            function.enable_caching()  # type: ignore[union-attr]


def _main(points: str, output: str, options: str) -> None:
    embedding = umap_embedding(np.load(points, allow_pickle=False), **json.loads(options))
    if embedding is not None:
        np.save(output, embedding)


if __name__ == "__main__":
    _main(*sys.argv[1:])
