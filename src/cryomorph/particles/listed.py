"""Rows of a particle file from an index file, also where that numbers the particles of a run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.io.atomic import same_place
from cryomorph.io.json_file import read_json
from cryomorph.io.npy import read_array
from cryomorph.io.numbers import read_index
from cryomorph.io.text import read_text
from cryomorph.particles.expand import copies_of
from cryomorph.particles.manifest import MANIFEST, SOURCE_ROW, Manifest

TITLE = "0-based particle numbers of "
OF_RUN = re.compile(rf"#\s*{TITLE}(?P<run>.+)")
STORE, CONFIG = "particles", "config.json"
AGAIN = "select particles again, as a .star or .cs file"


def title_of(run: Path) -> str:
    """The first line of a list of a run's particles, by which `listed_rows` finds the run."""
    return f"{TITLE}{run.resolve()}"


def numbered_run(path: Path) -> Path | None:
    """The run whose particles a list numbers: the one that its title names, or the one in whose folder it lies."""
    if path.suffix == ".txt" and path.is_file():
        found = OF_RUN.match(read_text(path).partition("\n")[0])
        if found is not None:
            return Path(found["run"].strip())
    return next((folder for folder in path.resolve().parents if _is_run(folder)), None)


def listed_rows(path: Path, source: Path) -> Int64[np.ndarray, " m"]:
    """Rows (0-based) of a particle file that an index file names.

    Particle numbers of a run, as `cryomorph select`, `split` and `analyze` write them, are rows of the run's own
    particle file; of the file that the run was given they are turned into its rows.

    Raises:
        InputError: as `read_index`; or the numbers are of a run that was made from part of another file.
    """
    numbers, run = read_index(path), numbered_run(path)
    if run is None or not numbers.size:
        return numbers
    if not _is_run(run):
        warn(f"{path} has particle numbers of {run}, which is not there: they are taken for rows of {source}")
        return numbers
    store, copies = Manifest.read(run / STORE), _copies(run)
    if same_place(source.parent, run):
        return numbers  # RUN/particles.star: a row for each particle of the run
    n = store.n * copies
    if int(numbers.max()) >= n:
        raise InputError(f"{path} names particle {numbers.max()} of {run}, which has {n}: {AGAIN}")
    within = numbers // copies
    if same_place(source.parent, run / STORE):
        return within
    original, partial = Path(store.source), (run / STORE / SOURCE_ROW).is_file()
    if _has_index(run) and not partial:
        raise InputError(f"{path} has particle numbers of {run}, an older run of a part of {original}: {AGAIN}")
    if same_place(source, original) or not (partial or store.left_out or copies > 1):
        rows = read_array(run / STORE / (SOURCE_ROW if partial else "row.npy"), (store.n,), kind="int", again=AGAIN)
        return rows[within]
    raise InputError(
        f"{path} has particle numbers of {run}, which was made from rows of {original}, not of {source}: give that "
        f"file, or {AGAIN}"
    )


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / STORE / MANIFEST).is_file()


def _config(run: Path) -> dict:
    return read_json(run / CONFIG, again="put it back")


def _copies(run: Path) -> int:
    return copies_of(str(_config(run).get("symmetry", "C1")))


def _has_index(run: Path) -> bool:
    images = _config(run).get("images")
    return isinstance(images, dict) and images.get("index") is not None
