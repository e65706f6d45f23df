"""Finding the image files that a particle file names, and checking their headers."""

from __future__ import annotations

import re
from os.path import normpath
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from cryomorph.config.console import track
from cryomorph.config.errors import InputError
from cryomorph.io.mrc import MrcStack
from cryomorph.particles.table import Metadata

FORMAT = re.compile(r":[A-Za-z]{3,5}$")  # `stack.mrc:mrcs`, as RELION, Xmipp and Scipion name a file's format
SHOW_PROGRESS_FROM = 1000  # files; fewer are found and opened before a bar would be seen


def locate(
    files: tuple[str, ...], source: Path, *, datadir: Path | None, strip_prefix: str | None, must_exist: bool = True
) -> tuple[Path, ...]:
    """Paths of image files as named in `source`.

    `strip_prefix` is first taken off a name that starts with it. With `datadir`, the name is looked for there, then its
    last part there; without it, in the folder of `source`, then in the working folder. An absolute name is also tried
    as it is, and a name that ends in a format (`stack.mrc:mrcs`) without that.

    Args:
        must_exist: False gives the likeliest path of a missing file instead of an error.

    Raises:
        InputError: a file is missing; two names lead to one file; or `datadir` is not a folder.
    """
    if datadir is not None and not datadir.is_dir():
        raise InputError(f"--datadir {datadir} is not a folder: give the folder that holds the image files")
    found: list[Path] = []
    for name in files:
        tried = _candidates(name, source, datadir, strip_prefix)
        path = next((candidate for candidate in tried if candidate.is_file()), None)
        if path is None and must_exist:
            raise InputError(
                f"{source} names the image file {name}, which is not at {' or '.join(map(str, tried))}: give its "
                "folder as --datadir, or the part of the path to leave out as --strip-prefix"
            )
        found.append(path or tried[0])
    _refuse_shared(files, found, source)
    return tuple(found)


def _refuse_shared(files: tuple[str, ...], found: list[Path], source: Path) -> None:
    """Refuse two names that lead to one path: files of one name in two folders, of which only one was found."""
    first: dict[str, str] = {}
    for name, path in zip(files, found, strict=True):
        other = first.setdefault(normpath(path), name)
        if normpath(other.lstrip("/")) != normpath(name.lstrip("/")):
            raise InputError(
                f"{source} names {other} and {name}, and for both {path} was found: expected two files; give the "
                "folder above both as --datadir"
            )


def _candidates(name: str, source: Path, datadir: Path | None, strip_prefix: str | None) -> list[Path]:
    if strip_prefix and name.startswith(strip_prefix):
        name = name[len(strip_prefix) :].lstrip("/")
    tried: list[Path] = []
    for part in dict.fromkeys((name, FORMAT.sub("", name))):
        given, relative = Path(part), Path(part.lstrip("/"))
        if datadir is not None:
            tried += [datadir / relative, datadir / relative.name] + ([given] if given.is_absolute() else [])
        else:
            tried += [source.parent / given, given]
    return list(dict.fromkeys(tried))


def open_stacks(paths: tuple[Path, ...]) -> list[MrcStack]:
    """The headers of all stacks, each read once.

    Raises:
        InputError: as `MrcStack.open`; or two stacks have different boxes.
    """
    shown = track(paths, "reading image headers") if len(paths) >= SHOW_PROGRESS_FROM else paths
    stacks = [MrcStack.open(path) for path in shown]
    for stack in stacks:
        if stack.box != stacks[0].box:
            raise InputError(
                f"{stack.path} has box {stack.box} and {stacks[0].path} has box {stacks[0].box}: expected one box for "
                "all particles, extract or rescale them to one"
            )
    return stacks


def check_images_of(
    metadata: Metadata, stacks: list[MrcStack] | None, path: Path
) -> tuple[int, Int64[np.ndarray, " n"]]:
    """The box, and each particle's image number, checked against the stacks' headers where these were read.

    Raises:
        InputError: an image beyond its stack, or none named in a stack of many; or a box that nothing states.
    """
    if stacks is None:
        if metadata.box is None:
            raise InputError(f"{path} does not state its box (rlnImageSize or blob/shape): the image files are needed")
        return metadata.box, np.maximum(metadata.image_of, 0)
    count = np.array([stack.count for stack in stacks])[metadata.file_of]
    alone = metadata.image_of < 0
    wrong = np.where(alone, count != 1, metadata.image_of >= count)
    if wrong.any():
        at = int(wrong.argmax())
        asked = "no image number" if alone[at] else f"image {metadata.image_of[at] + 1} (from 1)"
        raise InputError(
            f"{path}: row {metadata.row[at]} (0-based) names {asked} of {stacks[metadata.file_of[at]].path}, which has "
            f"{count[at]} images: give the stack that belongs to this file, or fix the row"
        )
    return stacks[0].box, np.maximum(metadata.image_of, 0)
