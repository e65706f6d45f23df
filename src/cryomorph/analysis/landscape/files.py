"""The files of a landscape: tables, maps and landscape.json, written and read here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from cryomorph.analysis.decode import write_maps
from cryomorph.analysis.landscape.landscape import Landscape, Trajectory
from cryomorph.analysis.landscape.states import state_maps
from cryomorph.analysis.particle_tables import LandscapeTables, write_array, write_numbers
from cryomorph.config.errors import InputError
from cryomorph.config.landscape import LandscapeConfig
from cryomorph.io.json_file import write_json
from cryomorph.io.mrc import read_map, write_map
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import mirror

FACTS = "landscape.json"


@dataclass(frozen=True)
class LandscapeSummary:
    """The states of a landscape, and how well they are known.

    `states` holds each particle's state, `sketch` counts the maps of each, `means` are the states' mean maps, not
    mirrored. `suggested` states are those that the maps themselves fall into; `clear` says whether they stand out.
    `r2` is the held-out R^2 of the particles' coordinates, measured on `held_out` maps.
    """

    states: Int[np.ndarray, " n"]
    sketch: tuple[int, ...]
    means: Float32[Tensor, "m z y x"]
    pixel_A: float
    suggested: int
    clear: bool
    r2: float
    held_out: int

    @property
    def count(self) -> int:
        """Number of states."""
        return len(self.sketch)

    @property
    def particles(self) -> list[int]:
        """Particles in each state."""
        return np.bincount(self.states[self.states >= 0], minlength=self.count).tolist()

    @classmethod
    def read(cls, run: RunFolder) -> LandscapeSummary:
        """The run's own landscape.

        Raises:
            InputError: a file is missing or damaged, or the landscape is of other particles; names the file, and the
                command that makes it again.
        """
        tables = LandscapeTables.of(run)
        path, again = tables.folder / FACTS, f"make it again with `{tables.command}`"
        try:
            facts: dict[str, Any] = json.loads(path.read_text())
            n, count = int(facts["particles"]), len(facts["states"])
            sketch = tuple(int(row["maps"]) for row in facts["states"])
            mirrored, pixel_A = bool(facts["options"]["flip_hand"]), float(facts["pixel_A"])
            suggested, clear = int(facts["suggested"]["states"]), bool(facts["suggested"]["clear"])
            r2, held_out = float(facts["r2"]), int(facts["held_out_maps"])
            if not (count and min(sketch) >= 0 and math.isfinite(r2) and 0 < pixel_A < math.inf):
                raise ValueError("numbers that no landscape has")
        except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{path} cannot be read ({type(error).__name__}: {error}): {again}") from error
        if n != len(run.latent_mean()):
            raise InputError(f"{path} is of {n:,} particles, and the run has {len(run.latent_mean()):,}: {again}")
        states = tables.states()
        if states.max() >= count:
            raise InputError(
                f"{tables.folder / tables.STATES} has state {states.max()}, and {path} has {count} states: {again}"
            )
        means = [_read_mean(tables.folder / "states" / f"state_{i}.mrc", again) for i in range(count)]
        if len({len(volume) for volume in means}) > 1:
            raise InputError(f"{tables.folder / 'states'} has maps of different boxes: {again}")
        maps = torch.stack([mirror(volume) if mirrored else volume for volume in means])
        return cls(states, sketch, maps, pixel_A, suggested, clear, r2, held_out)


def _read_mean(path: Path, again: str) -> Float32[Tensor, "z y x"]:
    try:
        volume = torch.tensor(read_map(path)[0], dtype=torch.float32)
    except (OSError, ValueError, InputError) as error:
        raise InputError(f"{error}: {again}") from error
    if len({*volume.shape}) > 1 or not bool(torch.isfinite(volume).all()):
        raise InputError(f"{path} is not a cube of finite values: {again}")
    return volume


def write_landscape(
    folder: Path,
    found: Landscape,
    config: LandscapeConfig,
    *,
    along: Iterable[Trajectory],
    path: Trajectory,
    pixel_A: float,
) -> None:
    """Write tables and maps of a landscape, and the maps along its components and its curve.

    Args:
        pixel_A: voxel of its maps.
    """
    _write_tables(found, folder)
    _write_volumes(found, folder, pixel_A)
    if config.save_maps:
        maps = (found.sketch.map(values) for values in found.sketch.values)
        _write_maps(folder / "maps", maps, pixel_A)
    for number, one in enumerate(along, start=1):
        _write_trajectory(one, folder / "pca" / f"pc{number}", pixel_A)
    _write_trajectory(path, folder / "curve", pixel_A)


def write_facts(folder: Path, found: Landscape, config: LandscapeConfig, *, pixel_A: float) -> None:
    """Write landscape.json, the file that comes last: what was asked for and found, in numbers."""
    states, embedding = found.states, found.embedding
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    rows = zip(states.volume_counts, states.particle_counts, states.middle, strict=True)
    facts = {
        "options": asked,
        "particles": len(found.z),
        "maps": len(found.sketch.particles),
        "box": found.sketch.box,
        "pixel_A": pixel_A,
        "mask_voxels": len(found.space.voxels),
        "explained_variance": found.space.ratio.tolist(),
        "r2": embedding.r2,
        "r2_each": embedding.r2_each,
        "held_out_maps": len(embedding.truth),
        "rounds": [{"pairs": pairs, "r2": r2} for pairs, r2 in embedding.rounds],
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
    write_json(folder / FACTS, facts)


def _write_tables(found: Landscape, folder: Path) -> None:
    tables = {
        LandscapeTables.COORDINATES: found.embedding.coordinates,
        LandscapeTables.STATES: found.states.particles,
        LandscapeTables.CURVE: found.curve.position,
        "sketch_coordinates.npy": found.sketch_coordinates,
        "sketch_states.npy": found.states.sketch,
        "sketch_mds.npy": found.mds,
        "sketch_umap.npy": found.umap,
    }
    for name, table in tables.items():
        if table is not None:
            write_array(folder / name, table)
    write_numbers(folder / "sketch.txt", found.sketch.particles)
    for state in range(found.states.count):
        write_numbers(folder / "states" / f"state_{state}.txt", np.flatnonzero(found.states.particles == state))


def _write_volumes(found: Landscape, folder: Path, pixel_A: float) -> None:
    """Write the mask, the mean map, the eigenvolumes, and each state's mean and standard deviation."""
    volumes = {"mask": found.mask, "pca/mean": found.mean_map}
    volumes |= {f"pca/pc{i + 1}": found.space.eigenvolume(i) for i in range(len(found.space.ratio))}
    for state in range(found.states.count):
        mean, std = state_maps(found.sketch.values, found.states.sketch, state)
        volumes |= {f"states/state_{state}": found.sketch.map(mean), f"states/state_{state}_std": found.sketch.map(std)}
    for name, volume in volumes.items():
        write_map(folder / f"{name}.mrc", volume.numpy(), pixel_A)


def _write_trajectory(one: Trajectory, folder: Path, pixel_A: float) -> None:
    """Write a trajectory's maps, and the numbers and places of its particles."""
    _write_maps(folder / "decoded" if one.linear is not None else folder, one.decoded, pixel_A)
    if one.linear is not None:
        _write_maps(folder / "linear", one.linear, pixel_A)
    write_numbers(folder / "particles.txt", one.particles)
    np.savetxt(folder / "positions.txt", one.position, fmt="%.6g", header="places of these particles")


def _write_maps(folder: Path, maps: Iterable[Float32[Tensor, "z y x"]], pixel_A: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_maps(folder, iter(maps), pixel_A, flip_hand=False)  # they are mirrored already, where they are to be
