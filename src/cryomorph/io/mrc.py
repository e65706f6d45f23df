"""MRC files: stacks of images read through a memory map, and maps; both byte orders, with or without machine stamp."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import mrcfile
import numpy as np
from jaxtyping import Float32, Int, Num
from mrcfile.dtypes import HEADER_DTYPE

from cryomorph.config.errors import InputError
from cryomorph.config.shell import command
from cryomorph.io.atomic import atomic_path
from cryomorph.io.mrc_header import NO_ORIGIN, MrcHeader, read_header

UNPACK = {"gzip": "gunzip", "bzip2": "bunzip2"}


@dataclass(frozen=True)
class MrcStack:
    """A stack of square images on disk: header facts only, so it pickles to other processes and holds no open file."""

    path: Path
    count: int
    box: int
    pixel_A: float
    header: MrcHeader

    @classmethod
    def open(cls, path: str | Path) -> MrcStack:
        """Read the header of a stack; a single 2D image is a stack of one. `pixel_A` is 0.0 where the header has none.

        Raises:
            InputError: as `read_header`; or the file is compressed, the images are not square, or their box is odd.
        """
        header = read_header(path)
        if header.compression is not None:
            raise InputError(
                f"{path} is {header.compression}-compressed, and images are read in any order: unpack it with "
                f"`{command(UNPACK[header.compression], '-k', path)}`"
            )
        count, ny, nx = header.shape
        if ny != nx or nx % 2:
            even = max(nx, ny) + max(nx, ny) % 2
            what = f"images of {nx} x {ny} pixels" if ny != nx else f"an odd box of {nx} pixels"
            raise InputError(
                f"{path} has {what}; expected square images with an even box: fix it with "
                f"`{command('relion_image_handler', '--i', path, '--o', 'even.mrcs', '--new_box', even)}`, or extract "
                "the particles again"
            )
        return cls(Path(path), count, nx, header.pixel_A, header)

    def read(self, index: Int[np.ndarray, " m"]) -> Float32[np.ndarray, "m box box"]:
        """Images `index` (0-based) in the order asked; the file is read in ascending contiguous runs.

        Raises:
            InputError: an index beyond the stack.
        """
        index = index.astype(np.int64)
        if ((index < 0) | (index >= self.count)).any():
            wrong = index[(index < 0) | (index >= self.count)][0]
            raise InputError(f"{self.path} has {self.count} images; image {wrong} (0-based) was asked for")
        images = np.empty((index.size, self.box, self.box), np.float32)
        if not index.size:
            return images
        stored = self.header.map()
        order = np.argsort(index, kind="stable")
        ascending = index[order]
        starts = np.flatnonzero(np.diff(ascending, prepend=ascending[0] - 2) != 1)
        for start, stop in zip(starts, np.append(starts[1:], index.size), strict=True):
            first = ascending[start]
            images[order[start:stop]] = stored[first : first + stop - start]
        return images


def read_map(path: str | Path) -> tuple[Float32[np.ndarray, "z y x"], float]:
    """A map `[z, y, x]` as float32, and its pixel size in Angstrom (0.0 where the header has none).

    The header's axis order is followed, so a map stored with other fastest axes comes out as [z, y, x].

    Raises:
        InputError: as `read_header`.
    """
    header = read_header(path)
    stored = np.asarray(header.map(), dtype=np.float32)  # axes (section, row, column)
    column, row, section = header.axes
    stored_axis = {section: 0, row: 1, column: 2}
    return np.ascontiguousarray(stored.transpose(stored_axis[3], stored_axis[2], stored_axis[1])), header.pixel_A


def read_finite_map(path: str | Path, box: int | None, *, again: str) -> Float32[np.ndarray, "z y x"]:
    """A cubic map whose values are all finite.

    Args:
        box: its box; None for any.
        again: how the file is made again, to end the message with.

    Raises:
        InputError: the file is missing, damaged, or holds anything else.
    """
    try:
        found = read_map(path)[0]
    except InputError as error:
        raise InputError(f"{error}, or {again}") from error
    if found.shape != (box or len(found),) * 3:
        voxels = " x ".join(map(str, found.shape))
        raise InputError(f"{path} has {voxels} voxels, expected a cube of {box or 'any size'}: {again}")
    if not np.isfinite(found).all():
        raise InputError(f"{path} has values that are not finite: {again}")
    return found


def write_map(
    path: str | Path,
    volume: Num[np.ndarray, "z y x"],
    pixel_A: float,
    *,
    origin_A: tuple[float, float, float] = NO_ORIGIN,
) -> None:
    """Write a map `[z, y, x]` as a float32 MRC volume with its pixel size, atomically.

    Args:
        origin_A: where the first voxel lies, `(x, y, z)`, as `MrcHeader` has it.
    """
    with atomic_path(path) as temporary, mrcfile.new(temporary) as mrc:
        mrc.set_data(np.ascontiguousarray(volume, dtype=np.float32))
        mrc.set_volume()
        mrc.voxel_size = pixel_A
        for axis, position in zip("xyz", origin_A, strict=True):
            mrc.header.origin[axis] = position


class StackWriter:
    """Write a float32 image stack piece by piece; the file appears under its name when the `with` block ends well."""

    def __init__(self, path: str | Path, box: int, pixel_A: float) -> None:
        self.path, self.box, self.pixel_A = Path(path), box, pixel_A
        self.count = 0
        self._minimum, self._maximum, self._sum, self._square_sum = np.inf, -np.inf, 0.0, 0.0

    def __enter__(self) -> StackWriter:
        self._open = ExitStack()
        temporary = self._open.enter_context(atomic_path(self.path))
        try:
            with mrcfile.new(temporary) as mrc:  # one blank image, for mrcfile's header
                mrc.set_data(np.zeros((1, self.box, self.box), np.float32))
                mrc.set_image_stack()
                mrc.voxel_size = self.pixel_A
            self._file: BinaryIO = self._open.enter_context(temporary.open("r+b"))
            self._header = np.frombuffer(bytearray(self._file.read(HEADER_DTYPE.itemsize)), HEADER_DTYPE)
        except BaseException:
            self._open.__exit__(*sys.exc_info())
            raise
        return self

    def append(self, images: Num[np.ndarray, "n y x"]) -> None:
        """Add images; they must have the box that the writer was made with."""
        if images.shape[1:] != (self.box, self.box):
            raise ValueError(f"images of shape {images.shape[1:]} in a stack of box {self.box}")
        if not len(images):
            return
        images = np.ascontiguousarray(images, dtype=np.float32)
        images.tofile(self._file)
        self.count += len(images)
        self._minimum = min(self._minimum, float(images.min()))
        self._maximum = max(self._maximum, float(images.max()))
        self._sum += float(images.sum(dtype=np.float64))
        self._square_sum += float(np.square(images, dtype=np.float64).sum())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._write_header()
            except BaseException as failure:
                self._open.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._open.__exit__(kind, error, trace)

    def _write_header(self) -> None:
        if not self.count:
            raise ValueError(f"no image was appended to {self.path}")
        pixels = self.count * self.box**2
        mean = self._sum / pixels
        self._header["nz"] = self.count
        self._header["dmin"], self._header["dmax"], self._header["dmean"] = self._minimum, self._maximum, mean
        self._header["rms"] = np.sqrt(max(self._square_sum / pixels - mean**2, 0.0))
        self._file.seek(0)
        self._file.write(self._header.tobytes())
