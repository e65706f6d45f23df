"""cryoSPARC's .cs files: numpy structured arrays with one row for each particle."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path


def read_cs(path: str | Path) -> np.ndarray:
    """The structured array of a .cs file, every column as stored.

    Raises:
        InputError: the file is missing, is a .csg, is not in numpy's format, or has no `uid` column.
    """
    path = Path(path)
    if path.suffix == ".csg":
        raise InputError(_csg_advice(path))
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}): give the path of a .cs file") from error
    except (ValueError, EOFError) as error:
        raise InputError(
            f"{path} is not in numpy's .cs format ({error}): save it so with cryosparc-tools, "
            "`Dataset.load(path).save(new_path, format=1)`"
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.names is None or "uid" not in array.dtype.names:
        raise InputError(f"{path} has no column uid: expected a cryoSPARC particle file (.cs)")
    return array


def _csg_advice(path: Path) -> str:
    text = path.read_text(errors="replace") if path.is_file() else ""
    named = dict.fromkeys(re.findall(r"metafile:\s*['\"]?>?([^'\"\s]+\.cs)", text))
    files = ", ".join(named) if named else "the .cs files that it lists as metafile"
    return (
        f"{path} is a .csg, which only lists other files: give {files} (the particles, and the rest as --passthrough)"
    )


def merge_passthrough(array: np.ndarray, passthrough: np.ndarray, path: str | Path) -> np.ndarray:
    """`array` with the columns that it lacks taken from `passthrough`, matched by `uid`; rows and order are `array`'s.

    Args:
        path: the passthrough's file, for the message.

    Raises:
        InputError: a particle of `array` is not in the passthrough.
    """
    order = np.argsort(passthrough["uid"], kind="stable")
    known = passthrough["uid"][order]
    place = np.searchsorted(known, array["uid"])
    found = place < len(known)
    found[found] = known[place[found]] == array["uid"][found]
    if not found.all():
        row = int(np.argmin(found))
        raise InputError(
            f"{path} lacks {int((~found).sum())} of the {len(array)} particles, first row {row} (0-based, uid "
            f"{array['uid'][row]}): give the passthrough file of the same cryoSPARC job"
        )
    rows = order[place]
    return add_columns(array, {name: passthrough[name][rows] for name in _missing(array, passthrough)})


def _missing(array: np.ndarray, other: np.ndarray) -> list[str]:
    have = set(array.dtype.names or ())
    return [name for name in other.dtype.names or () if name not in have]


def add_columns(array: np.ndarray, columns: dict[str, np.ndarray]) -> np.ndarray:
    """A copy of a structured array with columns added at its end, or replaced in place (type kept) where they exist."""
    names = array.dtype.names or ()
    new = [(name, values.dtype, values.shape[1:]) for name, values in columns.items() if name not in names]
    merged = np.empty(len(array), dtype=np.dtype([(name, array.dtype[name]) for name in names] + new))
    for name in names:
        merged[name] = array[name]
    for name, values in columns.items():
        merged[name] = values
    return merged


def write_cs(path: str | Path, array: np.ndarray) -> None:
    """Write a structured array as a .cs file, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
