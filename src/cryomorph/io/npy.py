"""Numpy's .npy files, whatever has happened to them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from cryomorph.config.errors import InputError

Kind = Literal["float", "int"]


def read_npy(path: str | Path) -> np.ndarray:
    """The array of a .npy file, in this machine's byte order.

    Raises:
        ValueError: the file is cut off, or holds anything but one array of plain values; what it should hold, the
            caller says.
        OSError: there is no such file, or no right to read it.
    """
    return _native(_loaded(path, None))


def map_npy(path: str | Path) -> np.ndarray:
    """The same as a read-only map of the file, in the file's byte order."""
    found = _loaded(path, "r")
    if not isinstance(found, np.memmap):
        raise ValueError("it cannot be mapped")
    return found


def read_array(path: Path, shape: tuple[int | None, ...], *, kind: Kind, again: str) -> np.ndarray:
    """An array of a known shape of finite numbers: float32 or int64.

    Args:
        shape: None stands for any length.
        again: how the file is made again, to end the message with.

    Raises:
        InputError: the file is missing, damaged, or holds anything else.
    """
    try:
        found = read_npy(path)
    except (OSError, ValueError) as error:
        raise damaged(path, error, again) from error
    kinds, words = ("f", "numbers") if kind == "float" else ("iu", "whole numbers")
    if found.dtype.kind not in kinds:
        raise InputError(f"{path} holds {found.dtype}, expected {words}: {again}")
    if found.ndim != len(shape) or not all(n in (None, m) for n, m in zip(shape, found.shape, strict=True)):
        expected = ", ".join("n" if size is None else str(size) for size in shape) + "," * (len(shape) == 1)
        raise InputError(f"{path} has shape {found.shape}, expected ({expected}): {again}")
    if kind == "float":
        with np.errstate(over="ignore"):  # what float32 cannot hold is not finite, and is said
            found = found.astype(np.float32, copy=False)
    if not np.isfinite(found).all():
        raise InputError(f"{path} has values that are not finite: {again}")
    return found if kind == "float" else found.astype(np.int64, copy=False)


def damaged(path: Path, error: Exception, again: str) -> InputError:
    """That a file cannot be read, why, and how it is made again."""
    reason = (
        error.strerror if isinstance(error, OSError) and error.strerror else next(iter(str(error).splitlines()), "")
    )
    return InputError(f"{path} cannot be read ({reason or type(error).__name__}): {again}")


def _loaded(path: str | Path, mode: Literal["r"] | None) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode=mode, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy parses the header as Python: damage leads to whatever that raises
        # what it says goes on with how to run code from a file
        reason, _, _ = str(error).partition(" If you trust")
        raise ValueError(reason or type(error).__name__) from error
    if not isinstance(found, np.ndarray):
        raise ValueError("it is an .npz, of several arrays")
    return found


def _native(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
