"""Options of `cryomorph split`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from cryomorph.config.errors import InputError
from cryomorph.config.select import SUFFIXES


@dataclass(frozen=True)
class SplitConfig:
    """Divide particles at random into two files, to train on one part and to test on the other.

    Every column of the particle file is kept, and its order. Numbers are written from 0: rows of a file, or particles
    of a run; of an index file, a part of the numbers that it lists.
    """

    source: Positional[Path]
    """A run folder, a particle file (.star, .cs), or an index file (.txt, .npy)."""
    output: Annotated[tuple[Path, Path], arg(aliases=["-o"], metavar="A B")]
    """The two files to write: .star or .cs, with the particles' numbers next to them; or numbers alone: .txt, .npy."""
    random: float = 0.9
    """Share of the particles that goes into the first file; the others go into the second."""
    seed: int = 0
    """Seed of the draw: the same seed gives the same parts."""
    datadir: Path | None = None
    """Folder of the images, where a .star is made of a .cs and they are not found."""
    overwrite: bool = False
    """Replace files that are there already."""

    def __post_init__(self) -> None:
        if not 0 < self.random < 1:
            raise InputError(f"random {self.random:g}: expected a share between 0 and 1, such as 0.9")
        if self.seed < 0:
            raise InputError(f"seed {self.seed}: expected 0 or more")
        for path in self.output:
            if path.suffix not in SUFFIXES:
                raise InputError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
        if self.output[0].with_suffix("") == self.output[1].with_suffix(""):
            raise InputError(f"{self.output[0]} and {self.output[1]}: expected two different names")
