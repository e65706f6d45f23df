"""The latent space of a run: all that is computed from the latent points alone, and its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from cryomorph.analysis import latent as la
from cryomorph.analysis.particle_tables import LatentTables, write_array, write_numbers
from cryomorph.config.analyze import AnalyzeConfig
from cryomorph.runs.folder import RunFolder


@dataclass(frozen=True)
class LatentSpace:
    """What latent points alone tell; `mixture` and `embedding` (by UMAP) are None where they were not asked for."""

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

    def write(self, folder: Path) -> None:
        """Write the files that `LatentTables` names."""
        write_array(folder / LatentTables.PCA, self.pca.projected)
        write_array(folder / LatentTables.CLUSTERS, self.clusters.labels)
        write_numbers(folder / LatentTables.CENTRES, self.clusters.centre_index)
        write_numbers(folder / LatentTables.OUTLIERS, self.outliers.index)
        if self.mixture is not None:
            write_array(folder / LatentTables.MIXTURE, self.mixture.labels)
            write_array(folder / LatentTables.PROBABILITY, self.mixture.probability)
        if self.embedding is not None:
            write_array(folder / LatentTables.UMAP, self.embedding)


def latent_space(run: RunFolder, config: AnalyzeConfig) -> LatentSpace:
    """PCA, clusters, mixture and outliers of a run's latent points; UMAP, which takes longest, is not among them."""
    z = run.latent_mean()
    return LatentSpace(
        z,
        run.latent_std(),
        la.principal_components(z),
        la.kmeans_on_data(z, min(config.clusters, len(z)), seed=config.seed),
        la.gaussian_mixture(z, min(config.gmm, len(z)), seed=config.seed) if config.gmm else None,
        la.outliers(z, config.outlier_z),
        None,
    )
