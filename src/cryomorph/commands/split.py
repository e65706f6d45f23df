"""`cryomorph split`: particles divided at random, to train on most of them and to test on the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from cryomorph.analysis.selection_files import check_outputs, particle_file, say_where_images_are, write_selection
from cryomorph.config.console import say
from cryomorph.config.errors import InputError
from cryomorph.config.select import PARTICLE_FILES
from cryomorph.config.split import SplitConfig
from cryomorph.io.numbers import read_index
from cryomorph.particles.listed import numbered_run, title_of
from cryomorph.particles.subset import ParticleFile
from cryomorph.runs.folder import RunFolder

LISTS = (".txt", ".npy")


@dataclass(frozen=True)
class Source:
    """What is divided: numbers from 0, a title that says what they count, and the particle file where there is one."""

    numbers: Int64[np.ndarray, " n"]
    title: str
    file: ParticleFile | None


def split(config: SplitConfig) -> None:
    """Draw, write both parts, and say how many each has."""
    source = source_of(config)
    read = (config.source if config.source.is_file() else None, None if source.file is None else source.file.path)
    for output in config.output:
        check_outputs(output, inputs=read, overwrite=config.overwrite)
    parts = divide(source.numbers, config.random, seed=config.seed)
    for output, part in zip(config.output, parts, strict=True):
        write_selection(output, part, source.file, title=source.title)
        say(f"{output}: {len(part):,} of {len(source.numbers):,} particles (seed {config.seed})")
    written = [output for output in config.output if output.suffix in PARTICLE_FILES]
    if source.file is not None and written:
        say_where_images_are(written[0], source.file)


def source_of(config: SplitConfig) -> Source:
    """The particles of a run, of a particle file or of an index file.

    Raises:
        InputError: it is none of these, holds fewer than two, or cannot be written as the outputs ask.
    """
    path = config.source
    file: ParticleFile | None = None
    if path.is_dir():
        file = particle_file(RunFolder.open(path, unfinished=True), datadir=config.datadir)
        found = Source(np.arange(len(file)), title_of(path), file)
    elif not path.is_file():
        raise InputError(f"{path}: no such run folder, particle file or index file")
    elif path.suffix in LISTS:
        run = numbered_run(path)
        title = f"0-based particle numbers, a part of those of {path}" if run is None else title_of(run)
        found = Source(np.unique(read_index(path)), title, None)
    else:
        file = ParticleFile.open(path, places=() if config.datadir is None else (config.datadir,))
        found = Source(np.arange(len(file)), f"0-based rows of {path}", file)
    if len(found.numbers) < 2:
        raise InputError(f"{path} holds {len(found.numbers)} particles: expected 2 or more to divide")
    for output in config.output:
        if output.suffix in PARTICLE_FILES:
            if file is None:
                raise InputError(f"{output}: {path} lists numbers alone, so the parts are .txt or .npy too")
            file.check_target(output)
    return found


def divide(
    numbers: Int64[np.ndarray, " n"], share: float, *, seed: int
) -> tuple[Int64[np.ndarray, " a"], Int64[np.ndarray, " b"]]:
    """A random share of numbers and the others, both in the order given; neither is empty."""
    n = len(numbers)
    count = min(max(round(share * n), 1), n - 1)
    first = np.zeros(n, dtype=bool)
    first[np.random.default_rng(seed).choice(n, count, replace=False)] = True
    return numbers[first], numbers[~first]
