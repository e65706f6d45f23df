"""The latent points of a run on disk: `latent_mean.npy` and `latent_std.npy`, a row for each particle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from cryomorph.io.atomic import atomic_path
from cryomorph.io.npy import read_array

MEAN, STD = "latent_mean.npy", "latent_std.npy"
CONTRAST, LOG_LIKELIHOOD = "contrast.npy", "log_likelihood.npy"
REFINED = "refined_poses.safetensors"
LATENT_SPLIT = "latent_split.npy"  # linear points by all, by the even, and by the odd coefficients of each image
AGAIN = "train again with --overwrite"


def read_latents(path: Path, *, particles: int | None = None, zdim: int | None = None) -> Float32[np.ndarray, "n q"]:
    """Latent means or standard deviations.

    Args:
        particles, zdim: how many rows and columns there have to be, where that is known.

    Raises:
        InputError: the file is missing, damaged, or holds anything else.
    """
    return read_array(path, (particles, zdim), kind="float", again=AGAIN)


def write_latents(folder: Path, mean: Float32[np.ndarray, "n q"], std: Float32[np.ndarray, "n q"]) -> None:
    """Write the latent means and standard deviations into a run folder."""
    for name, array in ((MEAN, mean), (STD, std)):
        with atomic_path(folder / name) as part:
            np.save(part, array)
