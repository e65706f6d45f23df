"""`traverse`: maps and a movie along a path through a latent space.

Particle numbers are 0-based; so are components here, while users count them from 1.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from cryomorph.analysis.decode import decode_at, write_maps
from cryomorph.analysis.latent import Latent, Pca, principal_components
from cryomorph.analysis.particle_tables import LandscapeTables
from cryomorph.analysis.paths import (
    LatentPath,
    Occupancy,
    component_path,
    graph_path,
    occupancy,
    straight_path,
    volume_component_path,
)
from cryomorph.config.console import say, warn
from cryomorph.config.errors import InputError
from cryomorph.config.traverse import TraverseConfig
from cryomorph.io.json_file import write_json
from cryomorph.io.output_folder import Contents, OutputFolder
from cryomorph.render import movie
from cryomorph.render.chimerax import movie_script
from cryomorph.report.path_plot import path_figure
from cryomorph.report.style import save_plot
from cryomorph.runs.folder import RunFolder

NUMBERED = "[0-9]" * 6  # as maps and frames are
FACTS = "path.json"
FILES = f"{NUMBERED}.mrc frames/{NUMBERED}.png movie.gif movie.mp4 overview.png play.cxc path.json path.npy path.txt"
PATH = Contents("path", FILES.split(), marker=FACTS, shared=True, guarded=("*.mrc",))


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
    with OutputFolder(output, PATH, inputs=(config.run,), overwrite=config.overwrite) as folder:
        pca = principal_components(z)
        path = find_path(config, z, pca=pca, run=run)
        around = occupancy(z, path)
        _say_path(path, around)
        _write_path(folder.scratch, config, path, around=around, pca=pca, run=run)
        folder.commit()
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
    coordinates = LandscapeTables.of(run).coordinates()
    component = (config.volume_pc or 1) - 1
    return volume_component_path(z, coordinates, component, points=config.points, percentiles=wide)


def _say_path(path: LatentPath, around: Occupancy) -> None:
    count = len(path.points)
    visits = "" if path.visited is None else f", through {len(path.visited)} particles"
    say(f"path: {count} points over a distance of {path.length:.3g}{visits}")
    if len(around.empty):
        where = ", ".join(str(number) for number in around.empty)
        warn(f"{len(around.empty)} of {count} maps ({where}) lie in nearly empty space: such maps are "
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
    (folder / "play.cxc").write_text(movie_script(names, scene, fps=config.fps))
    walked = path.points if path.visited is None else run.latent_mean()[path.visited].astype(np.float64)
    figure = path_figure(pca, path.points, walked, marks=path.anchors, title=f"{config.title}: {count} maps")
    save_plot(figure, folder / "overview.png")
    np.save(folder / "path.npy", path.points)
    if path.particles is not None:
        np.savetxt(folder / "path.txt", path.particles, fmt="%d", header="0-based particle numbers")
    write_json(folder / FACTS, _facts(config, path, around) | {
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
