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
from jaxtyping import Bool, Float, Shaped

from cryomorph.analysis.metadata_columns import metadata_columns
from cryomorph.analysis.particle_tables import LandscapeTables, LatentTables, read_values
from cryomorph.analysis.selection_files import particle_file, read_particle_numbers
from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.latents import CONTRAST

if TYPE_CHECKING:
    import pandas as pd

Values = Shaped[np.ndarray, " n"]

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
        """What may be known of particles besides their metadata; families of coordinates by the family's name."""
        latent, landscape = LatentTables(self.run, self.analysis), LandscapeTables(self.run, self.landscape)
        contrast = self.run.path / CONTRAST
        return {
            "z": Result(lambda: self.z, coordinates=True),
            "z_std": Result(self.run.latent_std, coordinates=True),
            "norm": Result(lambda: np.linalg.norm(self.z, axis=1)),
            "contrast": Result(partial(read_values, contrast, self.run, made_by="cryomorph train"), contrast),
            "pc": Result(self._principal_components, coordinates=True),
            "umap": Result(latent.umap, latent.folder / latent.UMAP, coordinates=True),
            "cluster": Result(latent.clusters, latent.folder / latent.CLUSTERS),
            "mixture": Result(latent.mixture, latent.folder / latent.MIXTURE),
            "outlier": Result(self._outliers, latent.folder / latent.OUTLIERS),
            "state": Result(landscape.states, landscape.folder / landscape.STATES),
            "curve": Result(landscape.curve, landscape.folder / landscape.CURVE),
            "volume_pc": Result(landscape.coordinates, landscape.folder / landscape.COORDINATES, coordinates=True),
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
        path, n = self.analysis / LatentTables.OUTLIERS, len(self.run.latent_mean())
        listed = np.zeros(n, dtype=bool)
        if any(line.strip() and not line.startswith("#") for line in path.read_text(errors="replace").splitlines()):
            listed[read_particle_numbers(path, n)] = True
        return listed


def _numbered(family: str, axis: int) -> str:
    """The name of a coordinate, counted from 1."""
    return f"z{axis}_std" if family == "z_std" else f"{family}{axis}"
