"""Particle sets from RELION, cryoSPARC, cryoDRGN and bare stacks: where the images are, their poses and their CTF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64

from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.io.cryosparc import read_cs, write_cs
from cryomorph.io.mrc import MrcStack
from cryomorph.io.numbers import read_index
from cryomorph.io.star import write_star
from cryomorph.io.text import read_stack_list
from cryomorph.particles.expand import repeated
from cryomorph.particles.from_cryodrgn import bare_stacks, with_ctf, with_poses
from cryomorph.particles.from_cryosparc import parse_cs, with_cs_pixel, with_cs_pose
from cryomorph.particles.from_star import parse_star
from cryomorph.particles.locate import check_images_of, locate, open_stacks
from cryomorph.particles.pixel_size import PixelSize, pixel_size
from cryomorph.particles.plausible import check_ctf, check_shifts
from cryomorph.particles.table import Metadata, StarTable
from cryomorph.particles.to_star import new_star, with_star_pixel, with_star_pose
from cryomorph.physics.ctf import Ctf
from cryomorph.physics.pose import Pose

STACK_SUFFIXES = (".mrc", ".mrcs")
BARE_SUFFIXES = (".txt", *STACK_SUFFIXES)  # no metadata of their own


@dataclass(frozen=True)
class Particles:
    """Particles of one file, in its order: images on disk, poses and CTF in our conventions, and the file's columns."""

    source: Path
    stacks: tuple[Path, ...]  # resolved image files
    stack_of: Int64[np.ndarray, " n"]  # index into stacks
    image_of: Int64[np.ndarray, " n"]  # 0-based image within the stack
    box: int
    pixel_A: float
    pose: Pose | None  # None: no 3D alignment in the file
    ctf: Ctf | None
    blob_sign: float | None  # cryoSPARC's blob/sign where given (-1: dark particles)
    half: Int64[np.ndarray, " n"] | None  # 0 / 1 from rlnRandomSubset or alignments3D/split
    table: StarTable | np.ndarray | None  # the file's own columns, for writing back; None for bare stacks
    ignored: tuple[str, ...]  # optics in the file that the model lacks
    row: Int64[np.ndarray, " n"]  # 0-based row of `source`
    contrast: Float32[np.ndarray, " n"] | None = None  # factor of the projection in each image, cryoSPARC's alpha

    def __len__(self) -> int:
        return len(self.stack_of)

    def select(self, index: Int[np.ndarray, " m"]) -> Particles:
        """The particles `index` (0-based), in that order."""
        rows = torch.from_numpy(index.astype(np.int64))
        table = self.table
        return replace(
            self,
            stack_of=self.stack_of[index],
            image_of=self.image_of[index],
            pose=None if self.pose is None else self.pose[rows],
            ctf=None if self.ctf is None else self.ctf[rows],
            half=None if self.half is None else self.half[index],
            row=self.row[index],
            contrast=None if self.contrast is None else self.contrast[index],
            table=table.select(index) if isinstance(table, StarTable) else None if table is None else table[index],
        )

    def read(self, index: Int[np.ndarray, " m"]) -> Float32[np.ndarray, "m box box"]:
        """Images of the particles `index` in that order, each stack opened once.

        Raises:
            InputError: an image file is gone, cut off or changed its box since the particles were read.
        """
        images = np.empty((len(index), self.box, self.box), np.float32)
        stack_of, image_of = self.stack_of[index], self.image_of[index]
        order = np.argsort(stack_of, kind="stable")
        starts = np.flatnonzero(np.diff(stack_of[order])) + 1
        for rows in np.split(order, starts) if order.size else ():
            stack = MrcStack.open(self.stacks[stack_of[rows[0]]])
            if stack.box != self.box:
                raise InputError(f"{stack.path} has box {stack.box}, expected {self.box}: the file was replaced")
            images[rows] = stack.read(image_of[rows])
        return images


def read_particles(
    path: str | Path,
    *,
    datadir: str | Path | None = None,
    strip_prefix: str | None = None,
    pixel_A: float | None = None,
    passthrough: str | Path | Sequence[str | Path] = (),
    poses: str | Path | None = None,
    ctf: str | Path | None = None,
    index: str | Path | Int[np.ndarray, " m"] | None = None,
    check_images: bool = True,
) -> Particles:
    """Read a .star, .cs, .txt (list of stacks) or .mrc(s) file of particles.

    Args:
        datadir, strip_prefix: where image files are found, see `cryomorph.particles.locate`.
        pixel_A: the images' pixel size, in place of what the files state.
        passthrough: one or more .cs whose columns fill those that `path` lacks.
        poses, ctf: cryoDRGN pickles, with a row for every particle of `path`; they replace the file's own.
        index: the particles to use (0-based), as an array or a .pkl, .npy or .txt file; None for all.
        check_images: False reads the metadata alone: image files may be missing, the box is the one that `path` states.

    Raises:
        InputError: anything that is wrong with the files, with its row (0-based) and column.
    """
    path = Path(path)
    rows = index.astype(np.int64) if isinstance(index, np.ndarray) else None if index is None else read_index(index)
    where = {"datadir": None if datadir is None else Path(datadir), "strip_prefix": strip_prefix}
    stacks: list[MrcStack] | None = None
    others = (passthrough,) if isinstance(passthrough, str | Path) else tuple(passthrough)
    if others and path.suffix != ".cs":
        raise InputError(f"--passthrough goes with a .cs file, and {path} is none: leave it out")
    if path.suffix in BARE_SUFFIXES:
        files = tuple(read_stack_list(path)) if path.suffix == ".txt" else (path.name,)
        paths = locate(files, path, **where) if path.suffix == ".txt" else (path,)  # type: ignore[arg-type]
        stacks = open_stacks(paths)
        metadata = bare_stacks(path, files, stacks, index=rows)
    else:
        metadata = _parse(path, rows, tuple(map(Path, others)), with_pose=poses is None, with_ctf=ctf is None)
        paths = locate(metadata.files, path, **where, must_exist=check_images)  # type: ignore[arg-type]
        stacks = open_stacks(paths) if check_images else None
    box, image_of = check_images_of(metadata, stacks, path)
    if ctf is not None:
        metadata = with_ctf(metadata, Path(ctf), box)
    if poses is not None:
        metadata = with_poses(metadata, Path(poses))
    size = pixel_size(metadata, stacks, path, box=box, given=pixel_A)
    particles = _assemble(metadata, paths, image_of, source=path, box=box, size=size)
    if poses is not None or size.differs:  # the file's columns follow, so that what is written is what was used
        table = _posed_table(particles.table, particles.pose, size.image_A)
        particles = replace(particles, table=_sized_table(table, size.image_A, box) if size.differs else table)
    if particles.ignored:
        warn(f"{path}: the model lacks these optics, so they are ignored: {', '.join(particles.ignored)}")
    return particles


def _parse(
    path: Path, rows: np.ndarray | None, passthrough: tuple[Path, ...], *, with_pose: bool, with_ctf: bool
) -> Metadata:
    if path.suffix == ".star":
        return parse_star(path, rows, with_pose=with_pose, with_ctf=with_ctf)
    if path.suffix in (".cs", ".csg"):
        return parse_cs(path, rows, passthrough=passthrough, with_pose=with_pose, with_ctf=with_ctf)
    raise InputError(f"{path} ends in {path.suffix or 'nothing'}: expected .star, .cs, .txt, .mrcs or .mrc particles")


def _assemble(
    metadata: Metadata,
    paths: tuple[Path, ...],
    image_of: Int64[np.ndarray, " n"],
    *,
    source: Path,
    box: int,
    size: PixelSize,
) -> Particles:
    pose, pixel_A = None, size.image_A
    if metadata.rotation is not None and metadata.shift is not None:
        unit_A = {"angstrom": 1.0, "pixel": size.shift_A, "box": box * pixel_A}[metadata.shift_in]
        check_shifts(metadata.shift * unit_A, metadata.row, source, extent_A=box * pixel_A)
        pose = Pose(metadata.rotation.float(), torch.from_numpy(metadata.shift * unit_A).float())
    if metadata.ctf is not None:
        check_ctf(metadata.ctf, metadata.row, source)
    return Particles(
        source=source,
        stacks=paths,
        stack_of=metadata.file_of,
        image_of=image_of,
        box=box,
        pixel_A=pixel_A,
        pose=pose,
        ctf=metadata.ctf,
        blob_sign=metadata.blob_sign,
        half=metadata.half,
        table=metadata.table,
        ignored=metadata.ignored,
        row=metadata.row,
        contrast=None if metadata.contrast is None else metadata.contrast.astype(np.float32),
    )


def _posed_table(
    table: StarTable | np.ndarray | None, pose: Pose | None, pixel_A: float
) -> StarTable | np.ndarray | None:
    if table is None or pose is None:
        return table
    return with_star_pose(table, pose, pixel_A) if isinstance(table, StarTable) else with_cs_pose(table, pose, pixel_A)


def _sized_table(table: StarTable | np.ndarray | None, pixel_A: float, box: int) -> StarTable | np.ndarray | None:
    if table is None:
        return None
    return with_star_pixel(table, pixel_A, box) if isinstance(table, StarTable) else with_cs_pixel(table, pixel_A, box)


def write_particles(particles: Particles, path: str | Path, *, pose: Pose | None = None) -> None:
    """Write particles as .star or .cs, atomically: every original column in its order, a new pose in the pose columns.

    A .star made from a .star, and a .cs from a .cs, keep the image paths exactly as they were written: RELION's are
    relative to the project's folder, cryoSPARC's likewise, so they resolve wherever the file is put. A .star made from
    anything else is of RELION 3.1 and names the image files that were found, as absolute paths.

    Raises:
        InputError: another suffix, or a .cs from particles that are not of a .cs.
        ValueError: `pose` has another length than `particles`.
    """
    path = Path(path)
    if pose is not None and len(pose) != len(particles):
        raise ValueError(f"{len(pose)} poses for {len(particles)} particles")
    table = _posed_table(particles.table, pose, particles.pixel_A)
    if path.suffix == ".star":
        write_star(path, table.blocks if isinstance(table, StarTable) else _convert(particles, pose or particles.pose))
    elif path.suffix == ".cs":
        if not isinstance(table, np.ndarray):
            raise InputError(
                f"{path}: a .cs can only be written from a .cs, not from {particles.source}: write a .star"
            )
        write_cs(path, table, like=particles.source)
    else:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'}: expected .star or .cs")


def _convert(particles: Particles, pose: Pose | None) -> dict:
    names = [str(stack.resolve()) for stack in particles.stacks]
    if any(stack.suffix != ".mrcs" for stack in particles.stacks):
        warn("RELION reads stacks only from files that end in .mrcs: link the images under such names before using it")
    star = new_star(
        [names[number] for number in particles.stack_of.tolist()],
        particles.image_of,
        box=particles.box,
        pixel_A=particles.pixel_A,
        pose=pose,
        ctf=particles.ctf,
        half=particles.half,
    )
    return star.blocks


def rewrite_poses(source: Path, target: Path, pose: Pose, *, pixel_A: float, copies: int = 1) -> None:
    """Write a particle file again with other poses, every other column kept; the images are not looked for.

    Args:
        pose: one for each row that is written.
        pixel_A: pixel size of the images that the file describes.
        copies: how often each row of `source` is written, one after another: the symmetry copies of a store.
    """
    table = (
        read_cs(source) if source.suffix == ".cs" else parse_star(source, None, with_pose=False, with_ctf=False).table
    )
    if table is None:
        raise InputError(f"{source} lists no particles: expected the particle file of a run")
    posed = _posed_table(repeated(table, copies), pose, pixel_A)
    if isinstance(posed, np.ndarray):
        write_cs(target, posed, like=source)
    elif posed is not None:
        write_star(target, posed.blocks)
