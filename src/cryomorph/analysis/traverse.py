"""`traverse`: maps and a movie along a path through a latent space.

Particle numbers are 0-based; so are components here, while users count them from 1.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree

from cryomorph.analysis import movie
from cryomorph.analysis.decode import decode_at, write_maps
from cryomorph.analysis.latent import Latent, Pca, check_latent, pc_trajectory, principal_components
from cryomorph.analysis.neighbour_graph import check_connected, neighbour_graph, share, shortest_way, thinned
from cryomorph.analysis.select import VOLUME_PCA, read_for
from cryomorph.analysis.training_curves import save_plot
from cryomorph.config.console import say, warn
from cryomorph.config.errors import InputError
from cryomorph.config.traverse import TraverseConfig
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.provenance import write_json

CROWD = 10  # the distance to this many particles says how crowded a place is
REFERENCE = 10_000  # particles whose own distances say what is usual
NUMBERED = "[0-9]" * 6  # as maps and frames are
LEFT = f"{NUMBERED}.mrc frames/{NUMBERED}.png movie.gif movie.mp4 overview.png play.cxc path.json path.npy path.txt"
SLAB = 30  # particles, at least, whose median says where a volume component's other coordinates lie


@dataclass(frozen=True)
class LatentPath:
    """Points in latent space, in order. `particles` are theirs, where every point is one.

    `arc` is the distance travelled up to each point; through a graph, along all the particles visited. `anchors` says
    which points are the particles that were asked for. `visited` are the particles of a graph path before thinning.
    """

    points: Float64[np.ndarray, "m q"]
    arc: Float64[np.ndarray, " m"]
    particles: Int64[np.ndarray, " m"] | None = None
    anchors: tuple[int, ...] = ()
    visited: Int64[np.ndarray, " v"] | None = None

    @property
    def length(self) -> float:
        """The distance from the first point to the last, along the path."""
        return float(self.arc[-1])


@dataclass(frozen=True)
class Occupancy:
    """How far each point of a path is from particles, and what is usual for the particles themselves.

    `nearest` is the distance to the nearest particle, `crowd` that to the tenth; a particle does not count itself.
    `usual` is the distance to the tenth that 99 % of the particles stay below.
    """

    nearest: Float64[np.ndarray, " m"]
    crowd: Float64[np.ndarray, " m"]
    usual: float

    @property
    def empty(self) -> Int64[np.ndarray, " e"]:
        """The points that lie where there are hardly any particles: farther from the tenth than 99 % of them."""
        return np.flatnonzero(self.crowd > self.usual).astype(np.int64)


def component_path(
    pca: Pca, component: int, *, points: int, percentiles: tuple[float, float] = (5.0, 95.0)
) -> LatentPath:
    """Evenly spaced points along a principal component of the latent, between two percentiles of the particles.

    Raises:
        InputError: there is no such component.
    """
    _check_component(component, len(pca.components), "--pc", "the latent space")
    along = pc_trajectory(pca, component, points=points, low=percentiles[0], high=percentiles[1])
    return LatentPath(along, _arc(along))


def straight_path(z: Latent, anchors: Sequence[int], *, points: int) -> LatentPath:
    """Straight from particle to particle, evenly spaced on each way; longer ways get more points.

    Raises:
        InputError: a number that no particle has, or particles that all share one latent point.
    """
    z64 = check_latent(z)
    corner = z64[_known(anchors, len(z64))]
    lengths = np.linalg.norm(np.diff(corner, axis=0), axis=1)
    _check_apart(lengths, anchors)
    between = share(lengths, points - len(anchors), np.full(len(lengths), points))
    parts, at = [], [0]
    for start, stop, count in zip(corner[:-1], corner[1:], between, strict=True):
        parts.append(start + np.linspace(0, 1, count + 2)[:-1, None] * (stop - start))
        at.append(at[-1] + int(count) + 1)
    along = np.concatenate([*parts, corner[-1:]])
    return LatentPath(along, _arc(along), anchors=tuple(at))


def graph_path(z: Latent, anchors: Sequence[int], *, points: int, degree: int = 5) -> LatentPath:
    """The shortest way from particle to particle over neighbours, thinned to at most `points` of those visited.

    Every point is a particle, so the path goes only where particles are. Thinning is even in the distance travelled and
    keeps the anchors.

    Raises:
        InputError: a number that no particle has, particles that all share one latent point, or particles that the
            graph does not connect.
    """
    z64 = check_latent(z)
    numbers = _known(anchors, len(z64))
    graph = neighbour_graph(z64, degree)
    check_connected(z64, numbers, graph, degree=degree)
    visited, at = shortest_way(graph, numbers)
    arc = _arc(z64[visited])
    _check_apart(np.diff(arc[at]), anchors)
    kept = thinned(arc, at, points)
    chosen = visited[kept]
    where = tuple(int(i) for i in np.searchsorted(kept, at))
    return LatentPath(z64[chosen], arc[kept], chosen, where, visited)


def volume_component_path(
    z: Latent,
    coordinates: Float[np.ndarray, "n p"],
    component: int,
    *,
    points: int,
    percentiles: tuple[float, float] = (5.0, 95.0),
) -> LatentPath:
    """Particles along a principal component of the volumes, at evenly spaced places between two percentiles.

    At each place it is the particle nearest to it among those of about that coordinate, where the other coordinates
    have these particles' medians, smoothed along the path: on a curved landscape the median of all may lie where no
    particle is. `arc` is the component's own coordinate, from the first particle on.

    Args:
        coordinates: where each particle lies along the components of the volumes.

    Raises:
        InputError: there is no such component, or all particles lie at one place along it.
    """
    z64, space = check_latent(z), np.asarray(coordinates, dtype=np.float64)
    _check_component(component, space.shape[1], "--volume-pc", "the landscape")
    along = space[:, component]
    first, last = np.percentile(along, percentiles)
    if not last > first:
        raise InputError(f"--volume-pc {component + 1}: all particles have the same coordinate: choose another")
    order = np.argsort(along, kind="stable")
    ranked = along[order]
    places = np.linspace(first, last, points)
    half = 0.5 * (last - first) / max(points - 1, 1)
    middle = np.searchsorted(ranked, places)
    low = np.minimum(np.searchsorted(ranked, places - half), (middle - SLAB // 2).clip(min=0))
    high = np.maximum(np.searchsorted(ranked, places + half), middle + SLAB // 2)
    slabs = [order[start:stop] for start, stop in zip(low, high, strict=True)]
    targets = gaussian_filter1d([np.median(space[slab], axis=0) for slab in slabs], 1.0, axis=0, mode="nearest")
    targets[:, component] = places
    chosen = [slab[np.square(space[slab] - t).sum(1).argmin()] for slab, t in zip(slabs, targets, strict=True)]
    numbers = np.unique(np.asarray(chosen, dtype=np.int64))
    numbers = numbers[np.argsort(along[numbers], kind="stable")]
    return LatentPath(z64[numbers], along[numbers] - along[numbers[0]], numbers)


def occupancy(z: Latent, path: LatentPath) -> Occupancy:
    """How crowded a path's surroundings are, against those of 10,000 random particles."""
    z64 = check_latent(z)
    tree = cKDTree(z64)
    crowd = min(CROWD, len(z64) - 1)
    sample = z64
    if len(z64) > REFERENCE:
        sample = z64[np.random.default_rng(0).choice(len(z64), REFERENCE, replace=False)]
    usual = float(np.percentile(tree.query(sample, k=[crowd + 1])[0], 99))
    distance = np.asarray(tree.query(path.points, k=range(1, crowd + 2))[0])
    own = distance[:, 0] == 0
    near = np.where(own, distance[:, 1], distance[:, 0])
    return Occupancy(near, np.where(own, distance[:, -1], distance[:, -2]), usual)


def _arc(points: Float64[np.ndarray, "m q"]) -> Float64[np.ndarray, " m"]:
    """The distance travelled up to each point."""
    return np.concatenate([[0.0], np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum()])


def _known(anchors: Sequence[int], n: int) -> Int64[np.ndarray, " a"]:
    unknown = [number for number in anchors if not 0 <= number < n]
    if unknown:
        raise InputError(f"particle {unknown[0]}: the run has particles 0 to {n - 1} (numbers are 0-based)")
    return np.asarray(anchors, dtype=np.int64)


def _check_component(component: int, count: int, option: str, where: str) -> None:
    if not 0 <= component < count:
        raise InputError(f"{option} {component + 1}: {where} has {count} components: expected 1 to {count}")


def _check_apart(lengths: Float64[np.ndarray, " s"], anchors: Sequence[int]) -> None:
    if not lengths.sum() > 0:
        named = " and ".join(str(number) for number in anchors)
        raise InputError(f"particles {named} have the same latent point: choose others")


def traverse(config: TraverseConfig) -> Path:
    """Write maps, pictures and a movie along a path through a run's latent space; returns their folder.

    Raises:
        InputError: the run is not finished or has no latent space, the path cannot be made, or its folder is in use.
    """
    movie.check_movie(config.movie)
    run = RunFolder.open(config.run, unfinished=True)
    z = run.latent_mean()
    if z.shape[1] == 0:
        raise InputError(f"{config.run} has no latent space (--zdim 0): there is no path, its one map is map.mrc")
    output = config.output if config.output is not None else run.path / "traverse" / config.name
    _check_output(output, overwrite=config.overwrite)
    pca = principal_components(z)
    path = find_path(config, z, pca=pca, run=run)
    around = occupancy(z, path)
    _say_path(path, around)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        _write_path(Path(scratch), config, path, around=around, pca=pca, run=run)
        _move_into(output, Path(scratch))
    say(f"{output}: {len(path.points)} maps, frames/, overview.png, play.cxc for ChimeraX"
        + ("" if config.movie == "none" else f", movie.{config.movie}"))  # fmt: skip
    return output


def find_path(config: TraverseConfig, z: Latent, *, pca: Pca, run: RunFolder) -> LatentPath:
    """The path that a config asks for, through the latent points of a run."""
    wide = config.percentiles
    if config.pc is not None:
        return component_path(pca, config.pc - 1, points=config.points, percentiles=wide)
    if config.between is not None:
        return straight_path(z, config.between, points=config.points)
    if config.graph is not None:
        return graph_path(z, config.graph, points=config.points, degree=config.degree)
    coordinates = landscape_coordinates(run)
    component = (config.volume_pc or 1) - 1
    return volume_component_path(z, coordinates, component, points=config.points, percentiles=wide)


def landscape_coordinates(run: RunFolder) -> Float[np.ndarray, "n p"]:
    """Where `cryomorph landscape` found a run's particles to lie along the components of the volumes.

    Raises:
        InputError: there is no landscape yet, or it is of other particles.
    """
    path, made_by = run.path / "landscape" / VOLUME_PCA, f"cryomorph landscape {run.path}"
    found = read_for(path, run, made_by=made_by)
    if found.ndim != 2 or found.dtype.kind != "f" or not np.isfinite(found).all():
        raise InputError(
            f"{path} holds {found.dtype} of shape {found.shape}, expected finite ({len(found)}, p): "
            f"`{made_by}` makes it anew"
        )
    return found


def _check_output(output: Path, *, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file: expected a folder for -o")
    if not overwrite and (_left(output) or any(output.glob("*.mrc"))):
        raise InputError(f"{output} holds a path already: give --overwrite to replace it, or another -o")


def _left(output: Path) -> list[Path]:
    """What an earlier path left in a folder: nothing else there is ever replaced."""
    return [path for pattern in LEFT.split() for path in output.glob(pattern)]


def _say_path(path: LatentPath, around: Occupancy) -> None:
    count = len(path.points)
    visits = "" if path.visited is None else f", through {len(path.visited)} particles"
    say(f"path: {count} points over a distance of {path.length:.3g}{visits}")
    if len(around.empty):
        where = ", ".join(str(number) for number in around.empty)
        warn(f"{len(around.empty)} of {count} maps ({where}) lie where there are hardly any particles: such maps are "
             "guesses; --graph stays where particles are")  # fmt: skip


def _write_path(
    folder: Path, config: TraverseConfig, path: LatentPath, *, around: Occupancy, pca: Pca, run: RunFolder
) -> None:
    store = run.store()
    box = store.box if config.box is None else config.box
    pixel_A = store.pixel_A * store.box / box
    count = write_maps(folder, decode_at(run, path.points, box), pixel_A, flip_hand=config.flip_hand)
    names = [f"{number:06d}.mrc" for number in range(count)]
    maps = movie.MapFiles(tuple(folder / name for name in names))
    scene = movie.Scene.of(maps, level=config.asked_level, view=config.view)
    frames = movie.write_frames(folder / "frames", maps, scene=scene, size=config.size)
    if config.movie != "none":
        movie.write_movie(folder / f"movie.{config.movie}", frames, fps=config.fps)
    (folder / "play.cxc").write_text(movie.chimerax_script(names, scene, fps=config.fps))
    walked = path.points if path.visited is None else run.latent_mean()[path.visited].astype(np.float64)
    figure = movie.path_figure(pca, path.points, walked, marks=path.anchors, title=f"{config.title}: {count} maps")
    save_plot(figure, folder / "overview.png")
    np.save(folder / "path.npy", path.points)
    if path.particles is not None:
        np.savetxt(folder / "path.txt", path.particles, fmt="%d", header="0-based particle numbers")
    write_json(folder / "path.json", _facts(config, path, around) | {
        "level": scene.level, "view": scene.rotation.tolist(), "box": box, "pixel_A": pixel_A,
    })  # fmt: skip


def _facts(config: TraverseConfig, path: LatentPath, around: Occupancy) -> dict[str, Any]:
    """What path.json says; lists have an entry for each map, particle numbers are 0-based."""
    asked = {key: str(value) if isinstance(value, Path) else value for key, value in dataclasses.asdict(config).items()}
    return {
        "kind": config.kind,
        "asked": asked,
        "length": path.length,
        "distance": path.arc.tolist(),
        "particles": None if path.particles is None else path.particles.tolist(),
        "anchor_maps": list(path.anchors),
        "visited_particles": None if path.visited is None else path.visited.tolist(),
        "nearest_particle_distance": around.nearest.tolist(),
        "tenth_particle_distance": around.crowd.tolist(),
        "usual_tenth_particle_distance": around.usual,
        "maps_in_empty_space": around.empty.tolist(),
    }


def _move_into(output: Path, made: Path) -> None:
    """Put what was made in place of an older path."""
    output.mkdir(exist_ok=True)
    (output / "frames").mkdir(exist_ok=True)
    for path in _left(output):
        path.unlink()
    for path in sorted(made.rglob("*.*")):
        path.replace(output / path.relative_to(made))
