"""Lists and tables of numbers in .npy and text files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from cryomorph.config.errors import InputError
from cryomorph.io.npy import read_npy


def read_numbers(path: Path, n: int, *, what: str, of: str) -> Int64[np.ndarray, " k"]:
    """0-based numbers of things of which there are `n`, from a .txt file, one a line, or a .npy array.

    Args:
        what, of: what is numbered, and where, for messages.

    Raises:
        InputError: the file holds anything else, or a number that nothing has.
    """
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
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            table = read_npy(path) if path.suffix == ".npy" else np.loadtxt(path, ndmin=1)
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as {what} ({str(error).splitlines()[0]})") from error
    if not np.issubdtype(table.dtype, np.integer) and not np.issubdtype(table.dtype, np.floating):
        raise InputError(f"{path}: holds {table.dtype}, expected {what}")
    if not table.size:
        raise InputError(f"{path} is empty: expected {what}")
    return table
