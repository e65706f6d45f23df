"""Headers of MRC files: both byte orders, with or without machine stamp, of maps that are compressed too."""

from __future__ import annotations

import bz2
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.utils import dtype_from_mode

from cryomorph.config.errors import InputError

REAL_MODES = (0, 1, 2, 6, 12)
LARGEST_SIDE = 1 << 20  # a side beyond this means that the header was read in the wrong byte order
NO_ORIGIN = (0.0, 0.0, 0.0)
IMOD_STAMP, IMOD_SIGNED = 1146047817, 1  # words 39 and 40: IMOD wrote the file; its bytes are signed
Compression = Literal["gzip", "bzip2"]
COMPRESSED: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"BZh": "bzip2"}
OTHERS = {  # first bytes of files that are taken for MRC files, and what they are
    b"\x89HDF": "an HDF5 file",
    b"II*\0": "a TIFF file",
    b"MM\0*": "a TIFF file",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"PK\x03\x04": "a zip archive",
    b"\x93NUMPY": "a numpy array",
    b"data_": "a text file",
}


@dataclass(frozen=True)
class MrcHeader:
    """Where an MRC file's data lie: `shape` (z, y, x) as stored, numpy type, byte offset, pixel size, axis order.

    `origin_A` is where the first voxel lies in the coordinates of atomic models, `(x, y, z)`: the header's origin, or
    its start in voxels where it has no origin.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: str
    offset: int
    pixel_A: float
    axes: tuple[int, int, int]
    origin_A: tuple[float, float, float] = NO_ORIGIN
    compression: Compression | None = None

    def map(self) -> np.ndarray:
        """The data, shape (z, y, x) as stored: a read-only memory map; unpacked where the file is compressed.

        Raises:
            InputError: a compressed file is cut off or damaged.
        """
        if self.compression is None:
            return np.memmap(self.path, dtype=self.dtype, mode="r", offset=self.offset, shape=self.shape)
        expected = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        content = _read(self.path, self.compression, self.offset + expected)[self.offset :]
        if len(content) < expected:
            raise InputError(
                f"{self.path} claims {expected} bytes of data in its header but stores {len(content)}: the file is cut "
                "off, copy or write it again"
            )
        return np.frombuffer(content, self.dtype).reshape(self.shape)


def read_header(path: str | Path) -> MrcHeader:
    """Read and check an MRC header; `pixel_A` is 0.0 where the header holds none.

    Bytes (mode 0) are signed, as the format has it, unless IMOD says that its are not, or the header's own extremes.

    Raises:
        InputError: the file is missing or no MRC file, its mode is not real, or it stores less than its header says.
    """
    path = Path(path)
    raw, compression = _first_bytes(path)
    header, order = _in_order(raw)
    nx, ny, nz, mode = _size_and_mode(header)
    if not _plausible(header):
        known = next((what for start, what in OTHERS.items() if raw.startswith(start)), None) or _other(path, raw)
        raise InputError(
            f"{path} is {known}: convert it to MRC"
            if known
            else f"{path} has an MRC header with size {nx} x {ny} x {nz} and mode {mode}; expected positive sizes and "
            f"one of the modes {', '.join(map(str, REAL_MODES))}: convert it with the program that wrote it"
        )
    dtype = np.dtype("u1") if _unsigned(header, raw, order) else dtype_from_mode(mode).newbyteorder(order)
    offset = HEADER_DTYPE.itemsize + max(int(header["nsymbt"]), 0)
    if compression is None:
        stored = max(path.stat().st_size - offset, 0) // (dtype.itemsize * nx * ny)
        if stored < nz:
            raise InputError(
                f"{path} claims {nz} sections of {ny} x {nx} in its header but stores {stored} whole ones: "
                "the file is cut off, copy or write it again"
            )
    sampling, cell = int(header["mx"]), float(header["cella"]["x"])
    known_pixel = sampling > 0 and np.isfinite(cell) and cell > 0
    pixel_A = float(str(np.float32(cell / sampling))) if known_pixel else 0.0  # 1.05, not 1.0499999523
    axes = (int(header["mapc"]), int(header["mapr"]), int(header["maps"]))
    axes = axes if sorted(axes) == [1, 2, 3] else (1, 2, 3)
    return MrcHeader(
        path, (nz, ny, nx), dtype.str, offset, pixel_A, axes, _origin_A(header, axes, pixel_A), compression
    )


def _first_bytes(path: Path) -> tuple[bytes, Compression | None]:
    """The header's bytes, unpacked, and how they were compressed."""
    size = HEADER_DTYPE.itemsize
    try:
        with path.open("rb") as file:
            raw = file.read(size)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give the path of an MRC file") from error
    compression = next((kind for start, kind in COMPRESSED.items() if raw.startswith(start)), None)
    if compression is not None:
        raw = _read(path, compression, size)
    if len(raw) < size:
        raise InputError(f"{path} holds {len(raw)} bytes, fewer than the {size} of an MRC header")
    return raw, compression


def _read(path: Path, compression: Compression, size: int) -> bytes:
    """The first bytes of a compressed file, unpacked."""
    try:
        with (gzip.open if compression == "gzip" else bz2.open)(path, "rb") as file:
            return file.read(size)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} cannot be unpacked ({error}): copy it again") from error


def _in_order(raw: bytes) -> tuple[np.void, str]:
    """The header in the byte order that makes sense: old programs leave its stamp empty, a few write it wrong."""
    likely, other = (">", "<") if raw[212:213] == b"\x11" else ("<", ">")
    header = {order: np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0] for order in (likely, other)}
    order = other if _plausible(header[other]) and not _plausible(header[likely]) else likely
    return header[order], order


def _size_and_mode(header: np.void) -> tuple[int, int, int, int]:
    nx, ny, nz, mode = (int(header[name]) for name in ("nx", "ny", "nz", "mode"))
    return nx, ny, nz, mode


def _plausible(header: np.void) -> bool:
    nx, ny, nz, mode = _size_and_mode(header)
    return mode in REAL_MODES and 0 < nx < LARGEST_SIDE and 0 < ny < LARGEST_SIDE and nz > 0


def _unsigned(header: np.void, raw: bytes, order: str) -> bool:
    """Whether the bytes of a file of mode 0 are unsigned."""
    if int(header["mode"]) != 0:
        return False
    stamp, flags = np.frombuffer(raw[152:160], f"{order}i4").tolist()
    if stamp == IMOD_STAMP:
        return not flags & IMOD_SIGNED
    low, high = float(header["dmin"]), float(header["dmax"])
    return 0 <= low < high <= 255 and high > 127  # which signed bytes do not reach


def _origin_A(header: np.void, axes: tuple[int, int, int], pixel_A: float) -> tuple[float, float, float]:
    x, y, z = (float(header["origin"][axis]) for axis in "xyz")
    if np.isfinite([x, y, z]).all() and any((x, y, z)):
        return x, y, z
    start = dict(zip(axes, (int(header[f"n{axis}start"]) for axis in "xyz"), strict=True))
    return start[1] * pixel_A, start[2] * pixel_A, start[3] * pixel_A


def _other(path: Path, raw: bytes) -> str | None:
    """SPIDER and IMAGIC files, which have no first bytes of their own."""
    if path.suffix in (".img", ".hed") and path.with_suffix(".hed").is_file():
        return "an IMAGIC file"
    for order in "<>":
        words = np.frombuffer(raw[:92], f"{order}f4")
        records, length, total = (float(words[at]) for at in (12, 22, 21))
        if 0 < records < LARGEST_SIDE and 0 < length < LARGEST_SIDE and records * length == total:
            return "a SPIDER file"
    return None
