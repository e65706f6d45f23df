"""Rows of a particle file as a new file: every column, every optics group and every uid as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt64

from cryomorph.config.errors import InputError
from cryomorph.config.select import PARTICLE_FILES
from cryomorph.io.cryosparc import read_cs, write_cs
from cryomorph.io.star import read_star, unquote, write_star
from cryomorph.particles.locate import locate
from cryomorph.particles.table import StarTable

IMAGE = "rlnImageName"
ALL = slice(None)


@dataclass(frozen=True)
class ParticleFile:
    """A .star or .cs file of particles as it is written; its images need not be there.

    `places` are folders that the image paths may be relative to, after `strip_prefix` is taken off; only a .star made
    from a .cs has to find them.
    """

    path: Path
    table: StarTable | np.ndarray
    places: tuple[Path, ...]
    strip_prefix: str | None = None

    @classmethod
    def open(cls, path: Path, *, places: Sequence[Path] = (), strip_prefix: str | None = None) -> ParticleFile:
        """Read a particle file.

        Args:
            places: folders for the images; those that do not exist are left out. Without, the file's own folder and the
                working folder.

        Raises:
            InputError: the file is missing, damaged, or is no particle file.
        """
        found = tuple(place for place in places or (path.parent, Path()) if place.is_dir())
        if path.suffix == ".star":
            blocks = read_star(path)
            listing = [name for name, table in blocks.items() if IMAGE in table.columns]
            if not listing:
                raise InputError(f"{path} has no column {IMAGE}: expected a STAR file of particles")
            star = StarTable(blocks, "particles" if "particles" in listing else listing[0])
            return cls(path, star, found, strip_prefix)
        if path.suffix in (".cs", ".csg"):
            return cls(path, read_cs(path), found, strip_prefix)
        raise InputError(f"{path} ends in {path.suffix or 'nothing'}: expected a .star or .cs file of particles")

    def __len__(self) -> int:
        return len(self.table.particles if isinstance(self.table, StarTable) else self.table)

    def uid(self) -> UInt64[np.ndarray, " n"] | None:
        """cryoSPARC's number of each particle, None for a STAR file."""
        return None if isinstance(self.table, StarTable) else self.table["uid"].astype(np.uint64)

    def image_names(self, rows: slice = ALL) -> list[str]:
        """Image of each particle as `number@file`: the number from 1, without leading zeros; the file as written."""
        if isinstance(self.table, StarTable):
            parts = unquote(self.table.particles[IMAGE].iloc[rows]).str.partition("@")
            numbered = parts[1] == "@"
            number, file = parts[0].where(numbered, "1").str.lstrip("0"), parts[2].where(numbered, parts[0])
            return (number + "@" + file).tolist()
        part = self.table[rows]
        files = [name.decode() if isinstance(name, bytes) else str(name) for name in part["blob/path"]]
        numbers = (part["blob/idx"].astype(np.int64) + 1).tolist()
        return [f"{number}@{file.removeprefix('>')}" for number, file in zip(numbers, files, strict=True)]

    def image_folder(self) -> Path | None:
        """The first of the places in which the first particle's image file is; None where no place has it."""
        name = self.image_names(slice(1))[0].partition("@")[2]
        for place in self.places:
            if locate((name,), self.path, datadir=place, strip_prefix=self.strip_prefix, must_exist=False)[0].is_file():
                return place
        return None

    def check_target(self, target: Path) -> None:
        """Refuse a file that cannot be written from this one, before anything else is done."""
        if target.suffix not in PARTICLE_FILES:
            raise InputError(f"{target} ends in {target.suffix or 'nothing'}: expected .star or .cs")
        if target.suffix == ".cs" and isinstance(self.table, StarTable):
            raise InputError(f"{target}: a .cs can only be written from a .cs, not from {self.path}: write a .star")

    def write(self, target: Path, rows: Int64[np.ndarray, " k"]) -> None:
        """Write some rows, in the order given, to a .star or .cs; image paths stay as they are written.

        A .star made from a .cs is of RELION 3.1 and names the images by their absolute paths.

        Raises:
            InputError: another suffix, a .cs of a .star, or images that are not found where a .cs becomes a .star.
        """
        self.check_target(target)
        if isinstance(self.table, StarTable):
            write_star(target, self.table.select(rows).blocks)
        elif target.suffix == ".cs":
            write_cs(target, self.table[rows], like=self.path)
        else:
            from cryomorph.particles.metadata import read_particles, write_particles

            place = self.image_folder() or (self.places[0] if self.places else None)
            particles = read_particles(self.path, datadir=place, strip_prefix=self.strip_prefix, index=rows)
            write_particles(particles, target)
