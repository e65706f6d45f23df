"""Which particles: expressions, clusters, states, polygons, ranges, neighbours and lists, combined as sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from cryomorph.analysis.expression import Expression
from cryomorph.analysis.lasso import inside, read_polygon
from cryomorph.analysis.particle_columns import ParticleColumns
from cryomorph.analysis.selection_files import (
    check_outputs,
    numbers_are_rows,
    particle_file,
    read_particle_numbers,
    run_files,
    say_where_images_are,
    write_selection,
)
from cryomorph.config.console import say, warn
from cryomorph.config.errors import InputError
from cryomorph.config.select import PARTICLE_FILES, SUFFIXES, Criteria
from cryomorph.particles.listed import title_of
from cryomorph.runs.folder import RunFolder

Chosen = Bool[np.ndarray, " n"]

LISTED = 30


@dataclass(frozen=True)
class Criterion:
    """A condition in the user's words, and the particles that meet it."""

    name: str
    chosen: Chosen


@dataclass(frozen=True, eq=False)
class Selection:
    """Particles of a run, by their numbers from 0 in ascending order, and how many met each criterion.

    Selections of one run combine as sets: `a & b`, `a | b`, `a - b`, `~a`.
    """

    run: RunFolder
    index: Int64[np.ndarray, " k"]
    total: int
    name: str
    """The condition that they meet, in words."""
    met: tuple[tuple[str, int], ...]
    """How many particles of the run meet each part of it."""

    @classmethod
    def of(cls, run: RunFolder, chosen: np.ndarray, name: str) -> Selection:
        """Particles listed by number, or marked in a mask of all particles.

        Raises:
            InputError: a number that no particle of the run has, or a mask of another length.
        """
        n = len(run.latent_mean())
        if chosen.ndim != 1 or (chosen.dtype.kind not in "biu" and len(chosen)):
            raise InputError(
                f"particles given as {chosen.dtype} of shape {chosen.shape}: expected numbers, or a mask of {n}"
            )
        if chosen.dtype == bool:
            if len(chosen) != n:
                raise InputError(f"a mask of {len(chosen)} particles: the run has {n}")
            index = np.flatnonzero(chosen).astype(np.int64)
        else:
            index = np.unique(chosen).astype(np.int64)
            if len(index) and not 0 <= index[0] <= index[-1] < n:
                wrong = index[0] if index[0] < 0 else index[-1]
                raise InputError(f"particle {wrong}: the run has particles 0 to {n - 1}")
        return cls(run, index, n, name, ((name, len(index)),))

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[int]:
        return iter(self.index.tolist())

    def __contains__(self, particle: object) -> bool:
        return particle in self.index

    @property
    def mask(self) -> Chosen:
        """Whether each particle of the run is in the selection."""
        chosen = np.zeros(self.total, dtype=bool)
        chosen[self.index] = True
        return chosen

    def __and__(self, other: Selection) -> Selection:
        return self._combined(other, np.logical_and, "and")

    def __or__(self, other: Selection) -> Selection:
        return self._combined(other, np.logical_or, "or")

    def __sub__(self, other: Selection) -> Selection:
        return self._combined(other, lambda a, b: a & ~b, "and not")

    def __invert__(self) -> Selection:
        return Selection.of(self.run, ~self.mask, f"not ({self.name})")

    def _combined(self, other: Selection, combine: Callable[[Chosen, Chosen], Chosen], word: str) -> Selection:
        if not isinstance(other, Selection):
            return NotImplemented
        ours, theirs = (one.run.path.resolve() for one in (self, other))
        if ours != theirs or self.total != other.total:
            raise InputError(f"selections of two runs, {ours} and {theirs}: expected particles of the same run")
        chosen = combine(self.mask, other.mask)
        return replace(Selection.of(self.run, chosen, f"({self.name}) {word} ({other.name})"), met=self.met + other.met)

    def __str__(self) -> str:
        return f"{len(self.index):,} of {self.total:,} particles ({len(self) / self.total:.1%}): {_counts(self.met)}"

    def __repr__(self) -> str:
        return f"<Selection of {self.run.path}: {self}>"

    def _repr_html_(self) -> str:
        """A small table for notebooks."""
        rows = {
            "particles": f"{len(self):,} of {self.total:,} ({len(self) / self.total:.1%})",
            "where": self.name,
            "run": str(self.run.path),
        }
        cells = "".join(f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in rows.items())
        return f"<table><caption>Selection</caption>{cells}</table>"

    def save(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        original_poses: bool = False,
        datadir: str | Path | None = None,
    ) -> Path:
        """Write the particles as `.star` or `.cs`, with a list of their numbers, or the numbers alone (`.txt`, `.npy`).

        Args:
            overwrite: replace a file that exists, but never one that the run needs.
            original_poses: write the particle file's own poses where the run refined them.
            datadir: folder of the images, where a `.star` is made for a cryoSPARC run.

        Raises:
            InputError: the selection is empty, the file exists, or it cannot be written from this run's particles.
        """
        path = Path(path)
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
        check_outputs(path, inputs=run_files(self.run), overwrite=overwrite)
        if not len(self):
            raise InputError(
                f"no particle of {self.run.path} is left where {self.name} (each alone: {_counts(self.met)}): widen a "
                "criterion; nothing was written"
            )
        source = None
        if path.suffix in PARTICLE_FILES:
            folder = None if datadir is None else Path(datadir)
            source = particle_file(self.run, original_poses=original_poses, datadir=folder)
        write_selection(path, self.index, source, title=title_of(self.run.path))
        say(f"{path}: {self}")
        if path.suffix == ".npy" and not numbers_are_rows(self.run):
            warn(
                f"{path} numbers the particles of {self.run.path}, which are not the rows of its particle file, and a "
                ".npy does not say so: write a .txt for --index"
            )
        if source is not None:
            say_where_images_are(path, source)
        return path


def select(run: RunFolder, criteria: Criteria) -> Selection:
    """The particles of a run that meet criteria; there may be none.

    Raises:
        InputError: a cluster, state, column or file that does not exist, or a condition that makes no sense.
    """
    n = len(run.latent_mean())
    given = list(_criteria(run, criteria))
    chosen = combine([criterion.chosen for criterion in given], union=criteria.any, complement=criteria.invert)
    taken = [("minus", _listed(criteria.minus, n))] if criteria.minus else []
    for _, removed in taken:
        chosen = chosen & ~removed
    name = (" or " if criteria.any else " and ").join(criterion.name for criterion in given)
    if criteria.invert:
        name = f"not ({name})"
    if taken:
        name = f"({name}) and not listed in {' '.join(path.name for path in criteria.minus)}"
    met = (*((c.name, int(c.chosen.sum())) for c in given), *((word, int(part.sum())) for word, part in taken))
    return Selection(run, np.flatnonzero(chosen).astype(np.int64), n, name, met)


def combine(sets: Sequence[Chosen], *, union: bool = False, complement: bool = False) -> Chosen:
    """The intersection of sets of particles, or their union; or what is outside it."""
    chosen = (np.logical_or if union else np.logical_and).reduce(np.stack(sets))
    return ~chosen if complement else chosen


def _criteria(run: RunFolder, asked: Criteria) -> Iterator[Criterion]:
    """The criteria that were given, in the order of the options."""
    columns = ParticleColumns.of(run, analysis=asked.analysis, landscape=asked.landscape)
    n = len(run.latent_mean())
    if asked.where is not None:
        holds = Expression.parse(asked.where)(columns.column)
        if len(holds) != n:
            raise InputError(f"`{asked.where}` has {len(holds)} values, the run has {n} particles")
        yield Criterion(asked.where, holds)
    for word, name, wanted in (
        ("cluster", "cluster", asked.cluster),
        ("component", "mixture", asked.component),
        ("state", "state", asked.state),
    ):
        if wanted:
            where = f"{columns.results[name].path}: {word}"
            yield Criterion(f"{word} {' '.join(map(str, wanted))}", with_label(columns.column(name), wanted, where))
    for name, low, high in asked.range:
        values = columns.numbers(name)
        yield Criterion(f"{name} from {low:g} to {high:g}", (values >= low) & (values <= high))
    if asked.lasso is not None:
        polygon = read_polygon(asked.lasso)
        names, points = columns.plane(asked.lasso_in)
        yield Criterion(f"lasso in {' '.join(names)}", inside(polygon, points))
    if asked.max_norm is not None:
        yield Criterion(f"|z| up to {asked.max_norm:g}", columns.column("norm") <= asked.max_norm)
    if asked.min_norm is not None:
        yield Criterion(f"|z| from {asked.min_norm:g}", columns.column("norm") >= asked.min_norm)
    if asked.nearest is not None:
        yield Criterion(f"{asked.nearest} nearest", _nearest(columns.z, asked))
    if asked.index:
        yield Criterion(f"index {' '.join(path.name for path in asked.index)}", _listed(asked.index, n))


def with_label(labels: Int[np.ndarray, " n"], wanted: Sequence[int], where: str) -> Chosen:
    """Which particles have one of the labels.

    Raises:
        InputError: no particle has a label that was asked for (says which exist).
    """
    known = np.unique(labels[labels >= 0])
    missing = sorted(set(wanted) - set(known.tolist()))
    if missing:
        there = ", ".join(map(str, known[:LISTED])) + (" and more" if len(known) > LISTED else "")
        raise InputError(f"{where} {missing[0]} does not exist: there are {there}")
    return np.isin(labels, wanted)


def _nearest(z: Float[np.ndarray, "n q"], asked: Criteria) -> Chosen:
    """The particles nearest to a point by Euclidean distance; of equally near ones those of lower number."""
    from cryomorph.analysis.latent import check_latent
    from cryomorph.analysis.nearest import nearest_to

    count, n = int(asked.nearest or 0), len(z)
    if count > n:
        raise InputError(f"nearest {count}: the run has {n} particles")
    if asked.to_particle is not None:
        if not 0 <= asked.to_particle < n:
            raise InputError(f"to-particle {asked.to_particle}: the run has particles 0 to {n - 1}")
        target = z[asked.to_particle].astype(np.float64)
    else:
        target = np.asarray(asked.to_point, dtype=np.float64)
        if len(target) != z.shape[1] or not np.isfinite(target).all():
            raise InputError(
                f"to-point has {len(target)} numbers: expected {z.shape[1]} finite ones, one per latent coordinate"
            )
    chosen = np.zeros(n, dtype=bool)
    chosen[nearest_to(target, check_latent(z), count)] = True
    return chosen


def _listed(paths: Sequence[Path], n: int) -> Chosen:
    """The particles that any of the files lists."""
    chosen = np.zeros(n, dtype=bool)
    for path in paths:
        chosen[read_particle_numbers(path, n)] = True
    return chosen


def _counts(met: Sequence[tuple[str, int]]) -> str:
    return "; ".join(f"{name}: {count:,}" for name, count in met)
