"""Chosen particles as files: RELION's, cryoSPARC's, or lists of particle numbers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from cryomorph.config.console import say, warn
from cryomorph.config.errors import InputError
from cryomorph.config.select import PARTICLE_FILES
from cryomorph.io.atomic import atomic_path, check_output
from cryomorph.io.numbers import read_numbers
from cryomorph.particles.manifest import SOURCE_ROW
from cryomorph.runs.folder import RunFolder

if TYPE_CHECKING:
    from cryomorph.particles.subset import ParticleFile


def particle_file(run: RunFolder, *, original_poses: bool = False, datadir: Path | None = None) -> ParticleFile:
    """The particles of a run as a file, row i being particle i, with the poses that the run used.

    Args:
        original_poses: take the poses of the file that the run was given.
        datadir: folder of the images (default: where training found them).

    Raises:
        InputError: the file does not list the run's particles, or no file holds the poses that symmetry copies had
            before they were refined.
    """
    from cryomorph.particles.subset import ParticleFile

    manifest = run.manifest()
    given, used = (folder / manifest.metadata for folder in (run.store_path, run.path))
    path = given if original_poses or not used.is_file() else used
    if original_poses and run.copies > 1:
        if run.has_refined_poses:
            raise InputError(
                f"original poses: {run.path} expanded its particles by symmetry {run.symmetry} and keeps only the "
                f"refined poses of the copies: expand {path} with relion_particle_symmetry_expand instead"
            )
        path = used
    asked = run.config().get("images", {})
    if datadir is not None:
        places = [datadir]
    else:
        places = [Path(asked["datadir"])] if asked.get("datadir") else []
        places += [Path(manifest.source).parent, Path()]
    if run.snapshot is not None and not original_poses and run.config().get("training", {}).get("refine_poses"):
        warn(f"{run.path} is not finished: the poses are the ones that it was given, not yet refined")
    found = ParticleFile.open(path, places=places, strip_prefix=asked.get("strip_prefix"))
    if len(found) != len(run.latent_mean()):
        raise InputError(f"{path} lists {len(found)} particles, the run has {len(run.latent_mean())}: train again")
    return found


def numbers_are_rows(run: RunFolder) -> bool:
    """Whether the numbers of a run's particles are the rows of the particle file that it was given."""
    return run.copies == 1 and not run.manifest().left_out and not (run.store_path / SOURCE_ROW).is_file()


def run_files(run: RunFolder) -> list[Path]:
    """The particle files that a run reads, which nothing may be written over."""
    return [folder / run.manifest().metadata for folder in (run.path, run.store_path)]


def read_particle_numbers(path: Path, n: int) -> Int64[np.ndarray, " k"]:
    """0-based particle numbers from a .txt file, one a line, or a .npy array.

    Raises:
        InputError: the file holds anything else, or a number that no particle of the run has.
    """
    return read_numbers(path, n, what="particle", of="the run")


def written_files(output: Path) -> list[Path]:
    """What is written for an output: a particle file comes with a list of the particles' numbers."""
    return [output, output.with_suffix(".txt")] if output.suffix in PARTICLE_FILES else [output]


def check_outputs(output: Path, *, inputs: Iterable[Path | None] = (), overwrite: bool = False) -> None:
    """Refuse what would be written for an output, as `check_output` does for each file."""
    for path in written_files(output):
        check_output(path, inputs=inputs, overwrite=overwrite)


def write_selection(output: Path, index: Int64[np.ndarray, " k"], source: ParticleFile | None, *, title: str) -> None:
    """Write particles as `written_files` says.

    Args:
        source: the file of all particles; needed where `output` is one.
        title: what the numbers count.
    """
    if output.suffix in PARTICLE_FILES and source is not None:
        source.write(output, index)
    write_numbers(written_files(output)[-1], index, title)


def write_numbers(path: Path, numbers: Int64[np.ndarray, " k"], title: str) -> None:
    """Write particle numbers (from 0) as .txt, one a line under a title, or .npy."""
    with atomic_path(path) as part:
        if path.suffix == ".npy":
            np.save(part, numbers)
        else:
            np.savetxt(part, numbers, fmt="%d", header=title)


def say_where_images_are(output: Path, source: ParticleFile) -> None:
    """Where a file names images by paths that do not hold from its folder or this one, say how to read it."""
    from cryomorph.particles.subset import ParticleFile

    if ParticleFile.open(output).image_folder() is None:
        place = source.image_folder()
        where = "the images' folder" if place is None else place.resolve()
        say(f"image paths are kept as in {source.path}: cryomorph reads {output} with --datadir {where}")
