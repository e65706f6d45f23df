"""`landscape`: what it leaves behind, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from cryomorph.analysis.decode import write_maps
from cryomorph.analysis.landscape.build import Landscape, Trajectory, describe, timed, trajectory
from cryomorph.analysis.landscape.embedding import ENOUGH
from cryomorph.analysis.landscape.sketch import decoder
from cryomorph.analysis.landscape.states import state_maps
from cryomorph.analysis.latent import check_latent
from cryomorph.compute.device import choose_device
from cryomorph.config.console import say, warn
from cryomorph.config.errors import InputError
from cryomorph.config.landscape import LandscapeConfig
from cryomorph.diagnostics.left_in_run import FACTS
from cryomorph.io.mrc import write_map
from cryomorph.report.landscape.page import write_landscape_report
from cryomorph.report.page import percent
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.provenance import write_json
from cryomorph.volumes.backproject import mirror
from cryomorph.volumes.masks import read_mask

LARGEST_BOX = 64  # unless another is asked for
NUMBERS = "0-based particle numbers"


def landscape(config: LandscapeConfig) -> Path:
    """Describe a run's landscape in its landscape folder; returns the report's path.

    Raises:
        InputError: the run is not finished, damaged or without a latent space, it has too few particles for what is
            asked, the mask is of another box, or the output folder holds something else.
    """
    device = choose_device(config.device)
    run = RunFolder.open(config.run, unfinished=True)
    z, std = run.latent()
    if z.shape[1] == 0:
        raise InputError(f"{config.run} has no latent space (--zdim 0): its one map is {config.run / 'map.mrc'}")
    output = config.output if config.output is not None else run.path / "landscape"
    _check_output(output)
    run.provenance()  # damaged, it is better said now than by the report
    store = run.store()
    box = config.box if config.box is not None else min(store.box, LARGEST_BOX)
    pixel_A = store.pixel_A * store.box / box
    mask = None if config.mask is None else read_mask(config.mask, box, whose="the box of the maps (--box)")
    if mask is not None and config.flip_hand:
        mask = mirror(mask)  # as the maps are: everything here, pictures too, is of the other hand
    model = run.representation()
    if model.zdim != z.shape[1]:
        raise InputError(
            f"{config.run}: the model has {model.zdim} latent coordinates, latent_mean.npy {z.shape[1]}: train again"
        )
    decode = decoder(model, box, device, flip_hand=config.flip_hand)
    found = describe(config, decode, box, z=check_latent(z), std=std, mask=mask)
    with timed(found.seconds, "trajectories"):
        count = min(config.trajectories, len(found.space.ratio))
        along = [trajectory(found, decode, component, points=config.pc_points) for component in range(count)]
        path = trajectory(found, decode, None, points=config.pc_points)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        folder = Path(scratch)
        with timed(found.seconds, "writing and drawing"):
            write_tables(found, folder)
            write_volumes(found, folder, pixel_A)
            if config.save_maps:
                rows = (found.sketch.map(values) for values in found.sketch.values)
                _write(folder / "maps", rows, pixel_A)
            named = [*((f"pca/pc{i + 1}", one) for i, one in enumerate(along)), ("curve", path)]
            for name, one in named:
                write_trajectory(one, folder / name, pixel_A)
            write_landscape_report(folder, run, found, along=along, path=path, config=config, pixel_A=pixel_A)
        write_json(folder / FACTS, landscape_facts(found, config, box=box, pixel_A=pixel_A))
        _move_into(output, folder)
    _say(found, output)
    return output / "report.html"


def write_tables(found: Landscape, folder: Path) -> None:
    """Write coordinates, states and the sketch's own tables; particle numbers are 0-based."""
    np.savetxt(folder / "sketch.txt", found.sketch.particles, fmt="%d", header=NUMBERS)
    tables = {
        "coordinates": found.placement.coordinates,
        "states": found.states.particles,
        "curve": found.curve.position,
        "sketch_coordinates": found.sketch_coordinates,
        "sketch_states": found.states.sketch,
        "sketch_mds": found.mds,
        "sketch_umap": found.umap,
    }
    for name, table in tables.items():
        if table is not None:
            np.save(folder / f"{name}.npy", table)
    (folder / "states").mkdir()
    for state in range(found.states.count):
        own = np.flatnonzero(found.states.particles == state)
        np.savetxt(folder / "states" / f"state_{state}.txt", own, fmt="%d", header=NUMBERS)


def write_volumes(found: Landscape, folder: Path, pixel_A: float) -> None:
    """Write the mask, the mean map, the eigen-volumes, and each state's mean and standard deviation."""
    (folder / "pca").mkdir()
    volumes = {"mask": found.mask, "pca/mean": found.mean_map}
    volumes |= {f"pca/pc{i + 1}": found.space.eigenvolume(i) for i in range(len(found.space.ratio))}
    for state in range(found.states.count):
        mean, std = state_maps(found.sketch.values, found.states.sketch, state)
        volumes |= {f"states/state_{state}": found.sketch.map(mean), f"states/state_{state}_std": found.sketch.map(std)}
    for name, volume in volumes.items():
        write_map(folder / f"{name}.mrc", volume.numpy(), pixel_A)


def write_trajectory(one: Trajectory, folder: Path, pixel_A: float) -> None:
    """Write a trajectory's maps, and the numbers and places of its particles."""
    _write(folder / "decoded" if one.linear is not None else folder, one.decoded, pixel_A)
    if one.linear is not None:
        _write(folder / "linear", one.linear, pixel_A)
    np.savetxt(folder / "particles.txt", one.particles, fmt="%d", header=NUMBERS)
    np.savetxt(folder / "positions.txt", one.position, fmt="%.6g", header="places of these particles")


def landscape_facts(found: Landscape, config: LandscapeConfig, *, box: int, pixel_A: float) -> dict[str, Any]:
    """What was asked and found, in numbers, for landscape.json."""
    states, placement = found.states, found.placement
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    rows = zip(states.volume_counts, states.particle_counts, states.middle, strict=True)
    return {
        "options": asked,
        "particles": len(found.z),
        "maps": len(found.sketch.particles),
        "box": box,
        "pixel_A": pixel_A,
        "mask_voxels": len(found.space.voxels),
        "explained_variance": found.space.ratio.tolist(),
        "r2": placement.r2,
        "r2_each": placement.r2_each,
        "held_out_maps": len(placement.truth),
        "rounds": [{"pairs": pairs, "r2": r2} for pairs, r2 in placement.rounds],
        "states": [
            {"state": state, "maps": maps, "particles": particles, "particle": int(found.sketch.particles[middle])}
            for state, (maps, particles, middle) in enumerate(rows)
        ],
        "suggested": {
            "states": states.suggestion.states,
            "clear": states.suggestion.clear,
            "gap": states.suggestion.gap,
            "valley": states.suggestion.valley,
            "heights": states.suggestion.heights.tolist(),
        },
        "curve": {"explained": found.curve.explained, "noise": found.curve.noise},
        "seconds": {step: round(value, 1) for step, value in found.seconds.items()},
    }


def _write(folder: Path, maps: Iterable[Float32[Tensor, "z y x"]], pixel_A: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_maps(folder, iter(maps), pixel_A, flip_hand=False)  # they are flipped already, if they are to be


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file: expected a folder for -o")
    if output.is_dir() and any(output.iterdir()) and not (output / FACTS).is_file():
        raise InputError(f"{output} is not empty and holds no landscape: give another -o")


def _move_into(output: Path, made: Path) -> None:
    """Put a new landscape in the place of the old one; files that are not a landscape's stay."""
    output.mkdir(exist_ok=True)
    for old in ("states", "pca", "curve", "maps", "figures"):
        shutil.rmtree(output / old, ignore_errors=True)
    (output / "sketch_umap.npy").unlink(missing_ok=True)
    for new in sorted(made.iterdir(), key=lambda path: path.name == FACTS):  # last what says that all is there
        new.replace(output / new.name)


def _say(found: Landscape, output: Path) -> None:
    states, placement = found.states, found.placement
    for state, (maps, particles) in enumerate(zip(states.volume_counts, states.particle_counts, strict=True)):
        say(f"state {state}: {maps} maps, {particles:,} particles ({percent(particles, len(found.z))})")
    suggestion = states.suggestion
    if suggestion.clear and suggestion.states != states.count:
        say(f"the maps themselves suggest {suggestion.states} states: give --states {suggestion.states}")
    if not suggestion.clear:
        say("no number of states stands out: the maps form a continuum, which states only cut in pieces")
    say(f"R^2 of held-out maps' coordinates: {placement.r2:.4f} ({placement.rounds[-1][0]} maps decoded for it)")
    if placement.r2 < ENOUGH:
        warn(
            f"the particles' coordinates are uncertain (R^2 {placement.r2:.2f}, expected {ENOUGH} or more): give more "
            "--pairs, or look at how the model was trained"
        )
    say(f"{output}: {sum(found.seconds.values()):.0f} s; look at {output / 'report.html'}")
