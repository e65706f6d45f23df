"""A run: what training left behind, and what can be asked of it."""

from __future__ import annotations

from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from jaxtyping import Float, Float32

from cryomorph.analysis.particle_columns import ParticleColumns
from cryomorph.analysis.selection import Selection
from cryomorph.analysis.selection import select as choose
from cryomorph.api.map import Map
from cryomorph.config.errors import InputError
from cryomorph.config.keywords import from_keywords
from cryomorph.config.select import Criteria
from cryomorph.runs.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

    from cryomorph.api.backprojection import HalfMaps
    from cryomorph.representations.base import Representation


class Run:
    """A run folder, opened for reading; nothing of it is read before it is asked for.

    Args:
        path: the run folder.

    Raises:
        InputError: the folder is no run, is damaged, or has no model yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = RunFolder.open(Path(path), unfinished=True)

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @cached_property
    def config(self) -> dict[str, Any]:
        """What was asked of the training, the method under `method`."""
        return self.folder.config()

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.config["method"])

    @cached_property
    def box(self) -> int:
        """Working box in pixels."""
        return self.folder.store().box

    @cached_property
    def pixel_A(self) -> float:
        """Pixel size at the working box."""
        return self.folder.store().pixel_A

    @cached_property
    def latents(self) -> Float32[np.ndarray, "n zdim"]:
        """Posterior mean of the latent point of each particle."""
        return self.folder.latent_mean()

    @cached_property
    def latents_std(self) -> Float32[np.ndarray, "n zdim"]:
        """Posterior standard deviation of each latent coordinate."""
        return self.folder.latent_std()

    @cached_property
    def particles(self) -> pd.DataFrame:
        """All that is known of each particle, row `i` being particle `i`.

        The columns of the particle file, under its own names and with the poses that the run used; then `z1`, `z1_std`,
        `norm`, `pc1`, `half_set` (1 or 2), and what `analyze` and `landscape` found: `umap1`, `cluster`, `mixture`,
        `outlier`, `state`, `curve`, `volume_pc1`.
        """
        return ParticleColumns.of(self.folder).frame()

    @cached_property
    def consensus(self) -> Map:
        """The map of all particles."""
        return Map(self.folder.consensus_map().numpy(), self.pixel_A)

    def __len__(self) -> int:
        return len(self.latents)

    def decode(self, points: ArrayLike, *, box: int | None = None) -> Map | list[Map]:
        """The model's map at a latent point `(zdim,)`, or the maps at many `(k, zdim)`.

        Args:
            box: voxels along each side of the map, even; the working box without.

        Raises:
            InputError: points of another dimension, or such a box.
        """
        from cryomorph.analysis.decode import decode_at

        z, one = self._points(points)
        voxels = self.box if box is None else box
        if voxels % 2 or voxels < 8:
            raise InputError(f"box {voxels}: expected an even number of voxels, at least 8")
        pixel_A = self.pixel_A * self.box / voxels
        maps = [
            Map(volume.numpy(), pixel_A)
            for volume in decode_at(self.folder, z, voxels, representation=self._representation)
        ]
        return maps[0] if one else maps

    def select(self, where: str | ArrayLike | None = None, **criteria: Any) -> Selection:
        """Choose particles.

        Args:
            where: a condition on the columns of `particles`, such as `"state == 4 and rlnDefocusU > 12000"`; or the
                numbers of particles, or a mask of all.
            **criteria: further options of `cryomorph select`, such as `cluster=[1, 2]` or `nearest=500, to_particle=7`.

        Raises:
            InputError: a column or an option that does not exist, or a condition that makes no sense.
        """
        if where is None or isinstance(where, str):
            asked = from_keywords(Criteria, {"where": where, **criteria}, call="select")
            if asked.empty:
                raise InputError('nothing says which particles to select: give a condition such as "z1 > 0"')
            return choose(self.folder, asked)
        listed = Selection.of(self.folder, np.asarray(where), "listed")
        return listed & self.select(**criteria) if criteria else listed

    @overload
    def reconstruct(self, particles: Selection) -> HalfMaps: ...

    @overload
    def reconstruct(self, particles: ArrayLike) -> Map | list[Map]: ...

    def reconstruct(self, particles: Selection | ArrayLike) -> HalfMaps | Map | list[Map]:
        """Back-project particles themselves, at the poses that the run used; the model has no part in it.

        Args:
            particles: a selection, of which half maps and their FSC are made; or latent points `(zdim,)` or
                `(k, zdim)`, near each of which particles are weighted so that noise and blur balance.

        Raises:
            InputError: the selection is of another run or too small for half maps, or points of another dimension.
        """
        if isinstance(particles, Selection):
            return self._half_maps(particles)
        from cryomorph.analysis.decode import reconstruct_at

        z, one = self._points(particles)
        maps = [Map(volume.numpy(), self.pixel_A) for volume in reconstruct_at(self.folder, z)]
        return maps[0] if one else maps

    def analyze(self, **options: Any) -> Path:
        """PCA, UMAP, clusters and maps, as `cryomorph analyze` does; returns the report's path."""
        from cryomorph.commands.analyze import analyze
        from cryomorph.config.analyze import AnalyzeConfig

        return self._after(analyze(from_keywords(AnalyzeConfig, {"run": self.path, **options}, call="analyze")))

    def landscape(self, **options: Any) -> Path:
        """States and coordinates of the maps, as `cryomorph landscape` does; returns the report's path."""
        from cryomorph.commands.landscape import landscape
        from cryomorph.config.landscape import LandscapeConfig

        return self._after(landscape(from_keywords(LandscapeConfig, {"run": self.path, **options}, call="landscape")))

    def __repr__(self) -> str:
        return f"<Run {self.path}: {self.method}, {len(self):,} particles, {self.latents.shape[1]} latent coordinates>"

    def _repr_html_(self) -> str:
        """A small table for notebooks."""
        results = [name for name in ("analysis", "landscape") if (self.path / name).is_dir()]
        rows = {
            "folder": str(self.path),
            "method": self.method,
            "particles": f"{len(self):,}",
            "latent coordinates": str(self.latents.shape[1]),
            "box": f"{self.box} pixels of {self.pixel_A:.3f} A",
            "results": ", ".join(results) or "none yet: run.analyze(), run.landscape()",
        }
        cells = "".join(f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in rows.items())
        return f"<table><caption>Run</caption>{cells}</table>"

    @cached_property
    def _representation(self) -> Representation:
        return self.folder.representation()

    def _points(self, points: ArrayLike) -> tuple[Float[np.ndarray, "k zdim"], bool]:
        """Latent points as rows, and whether a single one was given."""
        found, zdim = np.asarray(points, dtype=np.float64), self.latents.shape[1]
        one = found.shape == (zdim,) or (found.shape == () and zdim == 1)
        rows = found.reshape(-1, zdim) if one or (zdim == 1 and found.ndim == 1) else found
        if rows.ndim != 2 or rows.shape[1] != zdim or not np.isfinite(rows).all():
            raise InputError(f"latent points of shape {found.shape}: expected ({zdim},) or (k, {zdim}), finite")
        return rows, one

    def _half_maps(self, selection: Selection) -> HalfMaps:
        from cryomorph.analysis.selection_map import chosen_twice, half_set_sizes
        from cryomorph.api.backprojection import HalfMaps
        from cryomorph.volumes.backproject import reconstruct

        if selection.run.path.resolve() != self.path.resolve():
            raise InputError(f"the selection is of {selection.run.path}: expected one of {self.path}")
        store = self.folder.store()
        half_set_sizes(store, selection.index)
        return HalfMaps.of(reconstruct(store, subset=chosen_twice(self.folder, selection.index)))

    def _after(self, report: Path) -> Path:
        """Forget the table of particles, which has more columns now."""
        self.__dict__.pop("particles", None)
        return report


def load(path: str | Path) -> Run:
    """Open a run folder.

    Raises:
        InputError: the folder is no run, is damaged, or has no model yet.
    """
    return Run(path)
