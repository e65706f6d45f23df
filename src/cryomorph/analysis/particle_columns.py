"""Everything known about each particle of a run, by column name: its metadata and every result there is so far."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from cryomorph.analysis.metadata_columns import metadata_columns
from cryomorph.analysis.selection_files import particle_file, read_particle_numbers
from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.io.npy import read_npy
from cryomorph.runs.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

Values = Shaped[np.ndarray, " n"]

KMEANS, MIXTURE, UMAP, OUTLIERS = "kmeans_labels.npy", "gmm_labels.npy", "umap.npy", "outliers.txt"
STATES, VOLUME_PCA, CURVE = "states.npy", "coordinates.npy", "curve.npy"
CONTRAST = "contrast.npy"
PLANES = {"z": "latent", "pc": "pca", "umap": "umap", "volume_pc": "volume_pca"}
"""Families of coordinates, and the other word for the plane of the first two."""
NUMBERED = re.compile(r"(z|pc|umap|volume_pc)([0-9]+)|z([0-9]+)_std")


class Result(NamedTuple):
    """A result: a value for each particle, or several (`coordinates`); `path` is None where it needs no other file."""

    read: Callable[[], np.ndarray]
    path: Path | None = None
    coordinates: bool = False


@dataclass(frozen=True)
class ParticleColumns:
    """The columns of a run's particles, read when they are asked for; row `i` is particle `i`.

    A column of the particle file that has the name of a result is hidden by it.
    """

    run: RunFolder
    analysis: Path
    landscape: Path

    @classmethod
    def of(cls, run: RunFolder, *, analysis: Path | None = None, landscape: Path | None = None) -> ParticleColumns:
        """The columns of a run, from its own analysis and landscape where no other folder is given."""
        return cls(run, analysis or run.path / "analysis", landscape or run.path / "landscape")

    @cached_property
    def z(self) -> Float[np.ndarray, "n q"]:
        """The latent points; `InputError` where the run has no latent space."""
        found = self.run.latent_mean()
        if found.shape[1] == 0:
            raise InputError(f"{self.run.path} has no latent space (zdim 0): its particles have no coordinates")
        return found

    @cached_property
    def results(self) -> dict[str, Result]:
        """What may be known of particles beside their metadata; families of coordinates by the family's name."""
        analyze, landscape = f"cryomorph analyze {self.run.path}", f"cryomorph landscape {self.run.path}"
        kmeans, mixture, states = self.analysis / KMEANS, self.analysis / MIXTURE, self.landscape / STATES
        umap, volume, curve = self.analysis / UMAP, self.landscape / VOLUME_PCA, self.landscape / CURVE
        contrast = self.run.path / CONTRAST
        return {
            "z": Result(lambda: self.z, coordinates=True),
            "z_std": Result(self.run.latent_std, coordinates=True),
            "norm": Result(lambda: np.linalg.norm(self.z, axis=1)),
            "contrast": Result(partial(read_values, contrast, self.run, made_by="cryomorph train"), contrast),
            "pc": Result(self._principal_components, coordinates=True),
            "umap": Result(partial(read_for, umap, self.run, made_by=analyze), umap, coordinates=True),
            "cluster": Result(partial(read_labels, kmeans, self.run, made_by=analyze), kmeans),
            "mixture": Result(partial(read_labels, mixture, self.run, made_by=analyze), mixture),
            "outlier": Result(self._outliers, self.analysis / OUTLIERS),
            "state": Result(partial(read_labels, states, self.run, made_by=landscape), states),
            "curve": Result(partial(read_values, curve, self.run, made_by=landscape), curve),
            "volume_pc": Result(partial(read_for, volume, self.run, made_by=landscape), volume, coordinates=True),
            "half_set": Result(lambda: self.run.store().half.numpy() + 1),
        }

    @cached_property
    def metadata(self) -> dict[str, Callable[[], Values]]:
        """The columns of the particle file, with the poses that the run used."""
        return metadata_columns(particle_file(self.run))

    def column(self, name: str) -> Values:
        """One column.

        Raises:
            InputError: there is no such column (the nearest names are listed), or it cannot be read.
        """
        numbered = NUMBERED.fullmatch(name.replace("volume-pc", "volume_pc"))
        if numbered is not None:
            family, number = (numbered[1], int(numbered[2])) if numbered[1] else ("z_std", int(numbered[3]))
            values = self.coordinates(family)
            if not 1 <= number <= values.shape[1]:
                first, last = (_numbered(family, axis) for axis in (1, values.shape[1]))
                raise InputError(f"{self.run.path} has no column {name}: it has {first} to {last}")
            return values[:, number - 1]
        if name in self.results and not self.results[name].coordinates:
            return self.results[name].read()
        if name in self.metadata:
            return self.metadata[name]()
        near = get_close_matches(name, self.names(), n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(self.names())}"
        raise InputError(f"{self.run.path} has no column {name}: {advice}")

    def coordinates(self, family: str) -> Float[np.ndarray, "n d"]:
        """All coordinates of one family: `z`, `z_std`, `pc`, `umap` or `volume_pc`.

        Raises:
            InputError: the run has none, or their file is damaged or of other particles.
        """
        found = self.results[family].read()
        if found.ndim > 2 or found.dtype.kind not in "iuf":
            raise InputError(
                f"{self.results[family].path} holds {found.dtype} of shape {found.shape}: expected coordinates"
            )
        return found if found.ndim == 2 else found[:, None]

    def numbers(self, name: str) -> Float[np.ndarray, " n"]:
        """One column in double precision; `InputError` where it holds text."""
        found = self.column(name)
        if found.dtype.kind not in "biuf":
            raise InputError(f"column {name} of {self.run.path} holds text: expected one of numbers")
        return found.astype(np.float64)

    def plane(self, names: Sequence[str]) -> tuple[list[str], Float[np.ndarray, "n 2"]]:
        """Two columns of numbers, or the first two of a family, with their names."""
        wanted = [name.replace("volume-pc", "volume_pc") for name in names]
        families = {word: family for family, alias in PLANES.items() for word in (family, alias)}
        pair = [f"{families[wanted[0]]}{axis}" for axis in (1, 2)] if wanted[:1] in ([w] for w in families) else wanted
        if len(pair) != 2 or pair[0] == pair[1]:
            raise InputError(
                f"lasso in {' '.join(names)}: expected two columns such as `pc1 pc2`, or one of {', '.join(PLANES)} "
                "for its first two"
            )
        return pair, np.stack([self.numbers(name) for name in pair], axis=1)

    def names(self) -> list[str]:
        """The columns that there are, results first."""
        return [*self._read_results(), *self.metadata]

    def frame(self) -> pd.DataFrame:
        """All columns; results that cannot be read are left out with a warning."""
        import pandas as pd

        return pd.DataFrame({name: read() for name, read in self.metadata.items()} | self._read_results())

    def _read_results(self) -> dict[str, Values]:
        """The columns of all results that there are and that can be read."""
        columns: dict[str, Values] = {}
        flat = self.run.latent_mean().shape[1] == 0
        for name, result in self.results.items():
            if (result.path is not None and not result.path.is_file()) or (
                flat and name in ("z", "z_std", "pc", "norm")
            ):
                continue
            try:
                values = self.coordinates(name).T if result.coordinates else [result.read()]
            except InputError as error:
                warn(f"{name} is left out: {error}")
                continue
            columns |= {_numbered(name, axis) if result.coordinates else name: v for axis, v in enumerate(values, 1)}
        return columns

    def _principal_components(self) -> Float[np.ndarray, "n q"]:
        from cryomorph.analysis.latent import principal_components

        return principal_components(self.z).projected

    def _outliers(self) -> Bool[np.ndarray, " n"]:
        path, n = self.analysis / OUTLIERS, len(self.run.latent_mean())
        listed = np.zeros(n, dtype=bool)
        if any(line.strip() and not line.startswith("#") for line in path.read_text(errors="replace").splitlines()):
            listed[read_particle_numbers(path, n)] = True
        return listed


def _numbered(family: str, axis: int) -> str:
    """The name of a coordinate, counted from 1."""
    return f"z{axis}_std" if family == "z_std" else f"{family}{axis}"


def read_for(path: Path, run: RunFolder, *, made_by: str) -> np.ndarray:
    """An array of an analysis of a run, with a row for each of its particles; it is said where it is out of date.

    Raises:
        InputError: the file is missing or damaged, or has another number of particles.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; `{made_by}` makes it")
    try:
        found = read_npy(path)
    except ValueError as error:
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}): `{made_by}` makes it again") from error
    n = len(run.latent_mean())
    if found.ndim < 1 or len(found) != n:
        raise InputError(f"{path} has shape {found.shape}, the run has {n} particles: make it again with `{made_by}`")
    if path.stat().st_mtime < run.model_time:
        warn(f"{path} is older than the model of {run.path}: `{made_by}` makes it again")
    return found


def read_values(path: Path, run: RunFolder, *, made_by: str) -> Float[np.ndarray, " n"]:
    """One number for each particle.

    Raises:
        InputError: as `read_for`, or the file holds anything else.
    """
    values = read_for(path, run, made_by=made_by)
    if values.ndim != 1 or values.dtype.kind != "f":
        raise InputError(f"{path} holds {values.dtype} of shape {values.shape}: expected one number per particle")
    return values


def read_labels(path: Path, run: RunFolder, *, made_by: str) -> Int[np.ndarray, " n"]:
    """One whole number for each particle; below 0 means none.

    Raises:
        InputError: as `read_for`, or the file holds anything else.
    """
    labels = read_for(path, run, made_by=made_by)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"{path} holds {labels.dtype} of shape {labels.shape}: expected one whole number per particle")
    return labels
