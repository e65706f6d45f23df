"""Results with a row for each particle of a run: the files of `analyze` and `landscape`, read and checked.

This file imports no torch: tables of particles and selections are made without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int, Int64

from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.config.shell import command
from cryomorph.io.atomic import atomic_path
from cryomorph.io.npy import read_npy
from cryomorph.runs.folder import RunFolder

NUMBERS = "0-based particle numbers"


@dataclass(frozen=True)
class LatentTables:
    """What `analyze` left of a run's latent space, each table read and checked when it is asked for.

    Every method raises `InputError` where its file is missing, damaged or of other particles, and names the command
    that makes it again.
    """

    run: RunFolder
    folder: Path

    PCA: ClassVar[str] = "pca.npy"
    CLUSTERS: ClassVar[str] = "kmeans_labels.npy"
    CENTRES: ClassVar[str] = "kmeans_centres.txt"
    MIXTURE: ClassVar[str] = "gmm_labels.npy"
    PROBABILITY: ClassVar[str] = "gmm_probability.npy"
    UMAP: ClassVar[str] = "umap.npy"
    OUTLIERS: ClassVar[str] = "outliers.txt"

    def clusters(self) -> Int64[np.ndarray, " n"]:
        """The k-means cluster of each particle."""
        return read_labels(self.folder / self.CLUSTERS, self.run, made_by=self._command)

    def mixture(self) -> Int64[np.ndarray, " n"]:
        """The component of the Gaussian mixture that each particle most likely belongs to."""
        return read_labels(self.folder / self.MIXTURE, self.run, made_by=self._command)

    def umap(self) -> Float[np.ndarray, "n 2"]:
        """Each particle's place in the UMAP plane."""
        return read_coordinates(self.folder / self.UMAP, self.run, made_by=self._command)

    @property
    def _command(self) -> str:
        return command("cryomorph", "analyze", self.run.path)


@dataclass(frozen=True)
class LandscapeTables:
    """What `landscape` left for each particle of a run, each table read and checked when it is asked for.

    Every method raises `InputError` where its file is missing, damaged or of other particles, and names the command
    that makes it again.
    """

    run: RunFolder
    folder: Path

    STATES: ClassVar[str] = "states.npy"
    COORDINATES: ClassVar[str] = "coordinates.npy"
    CURVE: ClassVar[str] = "curve.npy"

    @classmethod
    def of(cls, run: RunFolder) -> LandscapeTables:
        """The tables of the run's own landscape."""
        return cls(run, run.path / "landscape")

    def states(self) -> Int64[np.ndarray, " n"]:
        """The state of each particle."""
        return read_labels(self.folder / self.STATES, self.run, made_by=self.command)

    def coordinates(self) -> Float[np.ndarray, "n p"]:
        """Each particle's coordinates on the principal components of the maps."""
        return read_coordinates(self.folder / self.COORDINATES, self.run, made_by=self.command)

    def curve(self) -> Float[np.ndarray, " n"]:
        """Each particle's place along the curve through volume space."""
        return read_values(self.folder / self.CURVE, self.run, made_by=self.command)

    @property
    def command(self) -> str:
        """The command that makes the tables."""
        return command("cryomorph", "landscape", self.run.path)


def read_labels(path: Path, run: RunFolder, *, made_by: str) -> Int64[np.ndarray, " n"]:
    """One whole number for each particle; below 0 means none.

    Args:
        made_by: the command that makes the file.

    Raises:
        InputError: the file is missing or damaged, is of another number of particles, or holds anything else.
    """
    labels = _read_rows(path, run, made_by=made_by)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise _wrong(path, labels, "one whole number per particle", made_by)
    return labels.astype(np.int64, copy=False)


def read_values(path: Path, run: RunFolder, *, made_by: str) -> Float[np.ndarray, " n"]:
    """One finite number for each particle; see `read_labels`."""
    values = _read_rows(path, run, made_by=made_by)
    if values.ndim != 1 or values.dtype.kind != "f" or not np.isfinite(values).all():
        raise _wrong(path, values, "one finite number per particle", made_by)
    return values


def read_coordinates(path: Path, run: RunFolder, *, made_by: str) -> Float[np.ndarray, "n d"]:
    """Finite coordinates of each particle; see `read_labels`."""
    found = _read_rows(path, run, made_by=made_by)
    if found.ndim != 2 or found.dtype.kind != "f" or not np.isfinite(found).all():
        raise _wrong(path, found, "finite coordinates of each particle", made_by)
    return found


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file."""
    with atomic_path(path) as part:
        np.save(part, array)


def write_numbers(path: Path, numbers: Int[np.ndarray, " k"]) -> None:
    """Write 0-based particle numbers, one a line."""
    with atomic_path(path) as part:
        np.savetxt(part, numbers, fmt="%d", header=NUMBERS)


def _read_rows(path: Path, run: RunFolder, *, made_by: str) -> np.ndarray:
    """An array with a row for each particle, in this machine's byte order; warns if the run's model is newer."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; `{made_by}` makes it")
    try:
        found = read_npy(path)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or ["it is empty"])[0]
        raise InputError(f"{path} cannot be read ({reason}): `{made_by}` makes it again") from error
    n = len(run.latent_mean())
    if found.ndim < 1 or len(found) != n:
        raise InputError(f"{path} has shape {found.shape}, the run has {n} particles: make it again with `{made_by}`")
    if path.stat().st_mtime < run.model_time:
        warn(f"{path} is older than the model of {run.path}: `{made_by}` makes it again")
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def _wrong(path: Path, found: np.ndarray, expected: str, made_by: str) -> InputError:
    return InputError(
        f"{path} holds {found.dtype} of shape {found.shape}: expected {expected}; `{made_by}` makes it again"
    )
