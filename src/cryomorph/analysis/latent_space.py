"""The latent space of a run, with all that is computed from its points alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from cryomorph.analysis import latent as la
from cryomorph.config.analyze import AnalyzeConfig
from cryomorph.config.console import say, warn
from cryomorph.io.atomic import atomic_path
from cryomorph.runs.folder import RunFolder

SMALLEST_UMAP = 10


@dataclass(frozen=True)
class LatentSpace:
    """All that is computed from the latent points alone; `embedding` is None where UMAP was not asked for."""

    z: Float32[np.ndarray, "n q"]
    std: Float32[np.ndarray, "n q"]
    pca: la.Pca
    clusters: la.KMeansResult
    mixture: la.GmmResult | None
    outliers: la.Outliers
    embedding: Float32[np.ndarray, "n 2"] | None

    @property
    def relative_std(self) -> Float32[np.ndarray, "n q"]:
        """Standard deviations as a share of each coordinate's own spread, the prior's standard deviation."""
        prior = np.sqrt(self.z.var(0) + np.square(self.std).mean(0))
        return (self.std / np.maximum(prior, 1e-12)).astype(np.float32)


def latent_space(run: RunFolder, config: AnalyzeConfig) -> LatentSpace:
    """PCA, clusters, mixture, outliers and UMAP of a run's latent points."""
    z = run.latent_mean()
    found = la.outliers(z, config.outlier_z)
    embedding = None
    if config.umap and z.shape[1] > 1 and len(z) < SMALLEST_UMAP:
        warn(f"{len(z)} particles are too few for UMAP")
    elif config.umap and z.shape[1] > 1:
        say("UMAP: compiling and embedding")
        embedding = la.umap_embedding(
            z, neighbours=config.umap_neighbours, min_distance=config.umap_min_distance, seed=config.seed
        )
    return LatentSpace(
        z,
        run.latent_std(),
        la.principal_components(z),
        la.kmeans_on_data(z, min(config.clusters, len(z)), seed=config.seed),
        la.gaussian_mixture(z, min(config.gmm, len(z)), seed=config.seed) if config.gmm else None,
        found,
        None if embedding is None else embedding.astype(np.float32),
    )


def write_tables(space: LatentSpace, folder: Path) -> None:
    """Write labels, centres, coordinates and outliers; particle numbers are 0-based."""
    _save(folder / "pca.npy", space.pca.projected)
    _save(folder / "kmeans_labels.npy", space.clusters.labels)
    _save_numbers(folder / "kmeans_centres.txt", space.clusters.centre_index)
    _save_numbers(folder / "outliers.txt", space.outliers.index)
    if space.mixture is not None:
        _save(folder / "gmm_labels.npy", space.mixture.labels)
        _save(folder / "gmm_probability.npy", space.mixture.probability)
    if space.embedding is not None:
        _save(folder / "umap.npy", space.embedding)


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as part:
        np.save(part, array)


def _save_numbers(path: Path, numbers: Int64[np.ndarray, " k"]) -> None:
    with atomic_path(path) as part:
        np.savetxt(part, numbers, fmt="%d", header="0-based particle numbers")
