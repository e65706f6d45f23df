"""Numpy's .npy files."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np


def read_npy(path: str | Path) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        ValueError: the file is cut off, or holds anything but one array of plain values; what it should hold, the
            caller says.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except (EOFError, BadZipFile) as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, np.ndarray):
        raise ValueError("it is an .npz, of several arrays")
    return found
