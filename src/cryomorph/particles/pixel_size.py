"""The images' pixel size: what the user says, what the particle file states, what the images' headers state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.io.mrc import MrcStack
from cryomorph.particles.plausible import check_pixel_size
from cryomorph.particles.table import Metadata

SAME = 0.01  # relative difference of two pixel sizes that are one
UNKNOWN = (0.0, 1.0)  # what programs write into a header where they do not know


@dataclass(frozen=True)
class PixelSize:
    """Pixel size of the images, and of shifts that are in pixels; `differs` where it is not what the file states."""

    image_A: float
    shift_A: float
    differs: bool


def pixel_size(
    metadata: Metadata, stacks: list[MrcStack] | None, path: Path, *, box: int, given: float | None
) -> PixelSize:
    """The images' pixel size.

    Images of another box than the file states were either scaled (their pixel size follows the box) or cropped (it
    stays); their headers decide, or the pixel size that is given.

    Args:
        box: of the images.
        given: by the user; None for what the files state.

    Raises:
        InputError: a pixel size that cannot be, or images of another box whose headers do not say what became of them.
    """
    stated, header_A = metadata.pixel_A, stacks[0].pixel_A if stacks else 0.0
    if given is not None and not given > 0:
        raise InputError(f"--pixel-A {given:g}: expected a number above 0")
    if stated is None:
        found = given or _from_header(header_A, path)
        check_pixel_size(found, path)
        return PixelSize(found, found, given is not None)
    check_pixel_size(given or stated, path)
    if metadata.box is None or metadata.box == box:
        found = given or stated
        return PixelSize(found, found, found != stated)
    scaled_A = stated * metadata.box / box
    known = given if given is not None else header_A if header_A not in UNKNOWN else None
    boxes = f"{path} states a box of {metadata.box} at {stated:g} A, its images have {box}"
    if known is not None and abs(known / scaled_A - 1) < SAME:
        warn(f"{boxes} at {known:g} A: they were scaled, and {known:g} A is used")
        return PixelSize(known if given else scaled_A, stated, True)
    if given is not None:
        return PixelSize(given, given, True)
    if known is not None and abs(known / stated - 1) < SAME:
        warn(f"{boxes} at {known:g} A: they were cropped or padded, and {stated:g} A is used")
        return PixelSize(stated, stated, False)
    raise InputError(
        f"{boxes}, and their headers do not say whether they were scaled ({scaled_A:g} A) or cropped ({stated:g} A): "
        "give their pixel size with --pixel-A"
    )


def _from_header(header_A: float, path: Path) -> float:
    """The header's pixel size, or 1 A where it states none."""
    if header_A > 0:
        return header_A
    warn(f"{path} states no pixel size, nor do its image headers: 1 A is taken; give the right one with --pixel-A")
    return 1.0
