"""Which particles: clusters, states, polygons, ranges, neighbours and lists, combined as sets and written back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from cryomorph.analysis.decode import read_particle_numbers
from cryomorph.analysis.latent import check_latent, principal_components
from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.config.select import SelectConfig
from cryomorph.io.atomic import atomic_path
from cryomorph.io.npy import read_npy
from cryomorph.particles.subset import WRITTEN, ParticleFile
from cryomorph.runs.folder import RunFolder

Chosen = Bool[np.ndarray, " n"]

KMEANS, MIXTURE, UMAP = "kmeans_labels.npy", "gmm_labels.npy", "umap.npy"
STATES, VOLUME_PCA = "states.npy", "coordinates.npy"
FAMILIES = {"z": "latent", "pc": "pca", "umap": "umap", "volume-pc": "volume-pca"}
NAME = re.compile(r"(z|pc|umap|volume-pc)([0-9]+)")
FEWEST_CORNERS = 3
LISTED = 30


@dataclass(frozen=True)
class Criterion:
    """A condition in the user's words, and the particles that meet it."""

    name: str
    chosen: Chosen


@dataclass(frozen=True)
class Selection:
    """Particles of a run, ascending from 0, and how many met each criterion."""

    index: Int64[np.ndarray, " k"]
    total: int
    met: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        share = len(self.index) / self.total
        return f"{len(self.index):,} of {self.total:,} particles ({share:.1%}): " + _counts(self.met)


@dataclass(frozen=True)
class Coordinates:
    """A run's coordinates by name: `z1`, `pc1`, `umap1`, `volume-pc1` and so on, each counted from 1."""

    run: RunFolder
    analysis: Path
    landscape: Path

    @classmethod
    def of(cls, run: RunFolder, *, analysis: Path | None = None, landscape: Path | None = None) -> Coordinates:
        """The coordinates of a run, from its own analysis and landscape where no other folder is given."""
        return cls(run, analysis or run.path / "analysis", landscape or run.path / "landscape")

    @cached_property
    def z(self) -> Float[np.ndarray, "n q"]:
        """The latent points."""
        return self.run.latent_mean()

    @property
    def norm(self) -> Float[np.ndarray, " n"]:
        """Distance of each latent point from the origin."""
        return np.linalg.norm(self.family("z"), axis=1)

    def family(self, name: str) -> Float[np.ndarray, "n d"]:
        """All coordinates of one kind: `z`, `pc`, `umap` or `volume-pc`.

        Raises:
            InputError: the run has none, or a file of them is of other particles.
        """
        if name in ("z", "pc"):
            if self.z.shape[1] == 0:
                raise InputError(f"{self.run.path} has no latent space (--zdim 0): it has no coordinate {name}1")
            return self.z if name == "z" else principal_components(self.z).projected
        if name == "umap":
            found = read_for(self.analysis / UMAP, self.run, made_by=f"cryomorph analyze {self.run.path}")
        else:
            found = read_for(self.landscape / VOLUME_PCA, self.run, made_by=f"cryomorph landscape {self.run.path}")
        return found if found.ndim > 1 else found[:, None]

    def column(self, name: str) -> Float[np.ndarray, " n"]:
        """One coordinate of every particle.

        Raises:
            InputError: there is no such coordinate.
        """
        parts = NAME.fullmatch(name)
        if parts is None:
            raise InputError(
                f"no coordinate is called {name}: expected z1, pc1, umap1 or volume-pc1, or a higher number"
            )
        table, number = self.family(parts[1]), int(parts[2])
        if not 1 <= number <= table.shape[1]:
            raise InputError(
                f"{self.run.path} has no coordinate {name}: it has {parts[1]}1 to {parts[1]}{table.shape[1]}"
            )
        return table[:, number - 1]

    def plane(self, names: Sequence[str]) -> tuple[list[str], Float[np.ndarray, "n 2"]]:
        """Two coordinates, or the first two of a kind, with their names."""
        kinds = {word: kind for kind, alias in FAMILIES.items() for word in (kind, alias)}
        pair = [f"{kinds[names[0]]}{axis}" for axis in (1, 2)] if len(names) == 1 and names[0] in kinds else list(names)
        if len(pair) != 2 or pair[0] == pair[1]:
            raise InputError(
                f"--lasso-in {' '.join(names)}: expected two coordinates such as `pc1 pc2`, or one of "
                f"{', '.join(FAMILIES)} for its first two"
            )
        return pair, np.stack([self.column(name) for name in pair], axis=1).astype(np.float64)


def select(run: RunFolder, config: SelectConfig) -> Selection:
    """The particles that a run's `select` asks for.

    Raises:
        InputError: a cluster, state, coordinate or file that does not exist, or no particle is left.
    """
    n = len(run.latent_mean())
    criteria = list(_criteria(run, config))
    chosen = combine([criterion.chosen for criterion in criteria], union=config.any, complement=config.invert)
    taken = [("--minus", _listed(config.minus, n))] if config.minus else []
    for _, removed in taken:
        chosen = chosen & ~removed
    met = (*((c.name, int(c.chosen.sum())) for c in criteria), *((name, int(part.sum())) for name, part in taken))
    if not chosen.any():
        how = "any" if config.any else "all"
        asked = f"not {how}" if config.invert else how
        raise InputError(
            f"no particle of {run.path} is left ({asked} of: {_counts(met)}): widen a criterion; nothing was written"
        )
    return Selection(np.flatnonzero(chosen).astype(np.int64), n, met)


def combine(sets: Sequence[Chosen], *, union: bool = False, complement: bool = False) -> Chosen:
    """The intersection of sets of particles, or their union; or what is outside it."""
    chosen = (np.logical_or if union else np.logical_and).reduce(np.stack(sets))
    return ~chosen if complement else chosen


def _criteria(run: RunFolder, config: SelectConfig) -> Iterator[Criterion]:
    """The criteria that were given, in the order of the options."""
    space = Coordinates.of(run, analysis=config.analysis, landscape=config.landscape)
    n = len(space.z)
    analysed, mapped = f"cryomorph analyze {run.path}", f"cryomorph landscape {run.path}"
    for what, wanted, path, made_by in (
        ("cluster", config.cluster, space.analysis / KMEANS, analysed),
        ("component", config.component, space.analysis / MIXTURE, analysed),
        ("state", config.state, space.landscape / STATES, mapped),
    ):
        if wanted:
            labels = read_labels(path, run, made_by=made_by)
            yield Criterion(f"{what} {' '.join(map(str, wanted))}", with_label(labels, wanted, f"{path}: {what}"))
    for name, low, high in config.range:
        values = space.column(name)
        yield Criterion(f"{name} from {low:g} to {high:g}", (values >= low) & (values <= high))
    if config.lasso is not None:
        polygon = read_polygon(config.lasso)
        names, points = space.plane(config.lasso_in)
        yield Criterion(f"lasso in {' '.join(names)}", inside(polygon, points))
    if config.max_norm is not None:
        yield Criterion(f"|z| up to {config.max_norm:g}", space.norm <= config.max_norm)
    if config.min_norm is not None:
        yield Criterion(f"|z| from {config.min_norm:g}", space.norm >= config.min_norm)
    if config.nearest is not None:
        yield Criterion(f"{config.nearest} nearest", _nearest(space.family("z"), config))
    if config.index:
        yield Criterion(f"index {' '.join(path.name for path in config.index)}", _listed(config.index, n))


def read_for(path: Path, run: RunFolder, *, made_by: str) -> np.ndarray:
    """An array with a row for each particle of a run; it is said where the run's model is younger.

    Raises:
        InputError: there is no such file (says what makes it), or it is of another number of particles.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; `{made_by}` makes it")
    try:
        found = read_npy(path)
    except ValueError as error:
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}): `{made_by}` makes it anew") from error
    n = len(run.latent_mean())
    if found.ndim < 1 or len(found) != n:
        raise InputError(f"{path} has shape {found.shape}, the run has {n} particles: make it anew with `{made_by}`")
    if path.stat().st_mtime < run.model_time:
        warn(f"{path} is older than the model of {run.path}: `{made_by}` makes it anew")
    return found


def read_labels(path: Path, run: RunFolder, *, made_by: str) -> Int[np.ndarray, " n"]:
    """One whole number for each particle; below 0 means none.

    Raises:
        InputError: as `read_for`, or the file holds anything else.
    """
    labels = read_for(path, run, made_by=made_by)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"{path} holds {labels.dtype} of shape {labels.shape}: expected a whole number a particle")
    return labels


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


def read_polygon(path: Path) -> Float[np.ndarray, "corners 2"]:
    """The corners of a polygon, from a .npy array or a text table (blanks or commas), a corner a row.

    Raises:
        InputError: the file holds anything else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of a polygon's corners")
    try:
        if path.suffix == ".npy":
            found = read_npy(path)
        else:
            rows = (line.split("#")[0].replace(",", " ").split() for line in path.read_text().splitlines())
            found = np.array([[float(value) for value in row] for row in rows if row])
        corners = found.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as corners ({str(error).splitlines()[0]})") from error
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < FEWEST_CORNERS or not np.isfinite(corners).all():
        raise InputError(f"{path}: found shape {corners.shape}, expected 3 or more rows of two finite numbers")
    return corners


def inside(polygon: Float[np.ndarray, "corners 2"], points: Float[np.ndarray, "n 2"]) -> Chosen:
    """Which points lie in a polygon, by the even-odd rule where it crosses itself; it need not be closed."""
    from skimage.measure import points_in_poly

    finite = np.isfinite(points).all(axis=1)
    found = np.zeros(len(points), dtype=bool)
    found[finite] = points_in_poly(points[finite], polygon)
    return found


def _nearest(z: Float[np.ndarray, "n q"], config: SelectConfig) -> Chosen:
    """The particles nearest to a point by Euclidean distance; of equally near ones those of lower number."""
    count, n = int(config.nearest or 0), len(z)
    if count > n:
        raise InputError(f"--nearest {count}: the run has {n} particles")
    if config.to_particle is not None:
        if not 0 <= config.to_particle < n:
            raise InputError(f"--to-particle {config.to_particle}: the run has particles 0 to {n - 1}")
        target = z[config.to_particle].astype(np.float64)
    else:
        target = np.asarray(config.to_point, dtype=np.float64)
        if len(target) != z.shape[1] or not np.isfinite(target).all():
            raise InputError(f"--to-point has {len(target)} numbers: expected {z.shape[1]}, one a latent coordinate")
    distance = np.square(check_latent(z) - target).sum(axis=1)
    chosen = np.zeros(n, dtype=bool)
    chosen[np.argsort(distance, kind="stable")[:count]] = True
    return chosen


def _listed(paths: Sequence[Path], n: int) -> Chosen:
    """The particles that any of the files lists."""
    chosen = np.zeros(n, dtype=bool)
    for path in paths:
        chosen[read_particle_numbers(path, n)] = True
    return chosen


def _counts(met: Sequence[tuple[str, int]]) -> str:
    return "; ".join(f"{name}: {count:,}" for name, count in met)


def particle_file(run: RunFolder, *, original_poses: bool = False, datadir: Path | None = None) -> ParticleFile:
    """The particles of a run as a file, row i being particle i, with the poses that the run used.

    Args:
        original_poses: take the poses of the file that the run was given.
        datadir: folder of the images; without, where training found them.

    Raises:
        InputError: the file does not list the run's particles, or no file holds the poses that symmetry copies had
            before they were refined.
    """
    store = run.store()
    name = store.manifest.metadata
    used = run.path / name
    path = store.folder / name if original_poses or not used.is_file() else used
    if original_poses and store.copies > 1:
        if store.refined is not None:
            raise InputError(
                f"--original-poses: {run.path} expanded its particles by symmetry {store.symmetry} and keeps the "
                f"copies' refined poses only: expand {path} with relion_particle_symmetry_expand instead"
            )
        path = used
    asked = run.config().get("images", {})
    if datadir is not None:
        places = [datadir]
    else:
        places = [Path(asked["datadir"])] if asked.get("datadir") else []
        places += [Path(store.manifest.source).parent, Path()]
    if run.snapshot is not None and not original_poses and run.config().get("training", {}).get("refine_poses"):
        warn(f"{run.path} is not finished: the poses are the ones that it was given, not yet refined")
    found = ParticleFile.open(path, places=places, strip_prefix=asked.get("strip_prefix"))
    if len(found) != len(run.latent_mean()):
        raise InputError(f"{path} lists {len(found)} particles, the run has {len(run.latent_mean())}: train anew")
    return found


def files_of(output: Path) -> list[Path]:
    """What is written for an output: a particle file has the particles' numbers beside it."""
    return [output, output.with_suffix(".txt")] if output.suffix in WRITTEN else [output]


def check_free(outputs: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse to replace files unasked."""
    for path in (path for output in outputs for path in files_of(output)):
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists already: give --overwrite to replace it, or another -o")


def write_numbers(path: Path, numbers: Int64[np.ndarray, " k"], title: str) -> None:
    """Write particle numbers (from 0) as .txt, one a line under a title, or .npy."""
    with atomic_path(path) as part:
        if path.suffix == ".npy":
            np.save(part, numbers)
        else:
            np.savetxt(part, numbers, fmt="%d", header=title)


def write_selection(output: Path, index: Int64[np.ndarray, " k"], source: ParticleFile | None, *, title: str) -> None:
    """Write particles as `files_of` says.

    Args:
        source: the file of all particles; needed where `output` is one.
        title: what the numbers count.
    """
    if output.suffix in WRITTEN and source is not None:
        source.write(output, index)
    write_numbers(files_of(output)[-1], index, title)
