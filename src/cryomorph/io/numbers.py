"""Lists and tables of numbers in .npy and text files, and in cryoDRGN's pickles."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Num

from cryomorph.config.errors import InputError
from cryomorph.io.cryodrgn import read_index_pickle
from cryomorph.io.npy import read_npy
from cryomorph.io.text import read_text

MOST = 2**53  # below which a float64 holds every whole number


def read_index(path: str | Path) -> Int64[np.ndarray, " m"]:
    """0-based numbers: a cryoDRGN .pkl, a .npy, or a text file with one a line.

    Raises:
        InputError: the file cannot be read, or holds anything but one row of whole numbers of 0 or more.
    """
    path = Path(path)
    found = read_index_pickle(path) if path.suffix == ".pkl" else _table(path, "indices")
    if found.ndim != 1 or found.dtype.kind not in "iuf" or not _is_whole(found):
        raise InputError(
            f"{path} has type {found.dtype} and shape {found.shape}: expected one row of whole numbers from 0"
        )
    return found.astype(np.int64)


def read_numbers(path: Path, n: int, *, what: str, of: str) -> Int64[np.ndarray, " k"]:
    """0-based numbers of things of which there are `n`, as `read_index` reads them, but at least one.

    Args:
        what, of: what is numbered, and where, for messages.

    Raises:
        InputError: the file holds anything else, or a number that nothing has.
    """
    if path.suffix == ".pkl":
        values = np.atleast_1d(read_index_pickle(path))
    else:
        values = np.atleast_1d(read_table(path, f"{what} numbers"))
    if values.ndim != 1 or values.size == 0 or not np.array_equal(values, np.floor(values)):
        raise InputError(f"{path}: expected 0-based {what} numbers, one a line")
    outside = np.flatnonzero((values < 0) | (values >= n))
    if len(outside):
        row = int(outside[0])
        raise InputError(f"{path}, entry {row}: {what} {values[row]:.0f}: {of} has {what}s 0 to {n - 1}")
    return values.astype(np.int64)


def read_table(path: Path, what: str) -> np.ndarray:
    """Numbers from a .npy array or a text table; `InputError` where there is no such file, or anything else in it."""
    if not path.is_file():
        raise InputError(f"{path}: no such file of {what}")
    table = _table(path, what)
    if not np.issubdtype(table.dtype, np.integer) and not np.issubdtype(table.dtype, np.floating):
        raise InputError(f"{path}: holds {table.dtype}, expected {what}")
    if not table.size:
        raise InputError(f"{path} is empty: expected {what}")
    return table


def _table(path: Path, what: str) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            return read_npy(path) if path.suffix == ".npy" else np.loadtxt(io.StringIO(read_text(path)), ndmin=1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as {what} ({reason}): expected numbers") from error


def _is_whole(values: Num[np.ndarray, " m"]) -> bool:
    """Whether all are whole numbers that int64 holds, from 0."""
    return bool(((values >= 0) & (values < MOST) & (values == np.floor(values))).all())
