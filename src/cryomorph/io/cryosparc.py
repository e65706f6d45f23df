"""cryoSPARC's .cs files: numpy structured arrays with one row for each particle."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np

from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path
from cryomorph.io.cryosparc_stream import MAGIC, decode, encode

LONGEST_HEADER = 1 << 22  # bytes; a file that descends from a 3D classification names hundreds of columns


def read_cs(path: str | Path) -> np.ndarray:
    """The structured array of a .cs file in numpy's or in cryoSPARC's stream format, every column as stored.

    Raises:
        InputError: the file is missing, damaged, a .csg, or has no `uid` column.
    """
    path = Path(path)
    if path.suffix == ".csg":
        raise InputError(_csg_advice(path))
    try:
        array = decode(path.read_bytes()) if is_stream(path) else _load(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}): give the path of a .cs file") from error
    except ValueError as error:
        raise InputError(
            f"{path} is not a whole .cs file ({str(error).splitlines()[0]}): export it from cryoSPARC again, or "
            "save it with cryosparc-tools, `Dataset.load(path).save(new_path)`"
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.names is None or "uid" not in array.dtype.names:
        raise InputError(f"{path} has no column uid: expected a cryoSPARC particle file (.cs)")
    return array


def is_stream(path: Path) -> bool:
    """Whether a file is in cryoSPARC's stream format."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _load(path: Path) -> np.ndarray:
    """The array of a file in numpy's format; `ValueError` where it is damaged."""
    with path.open("rb") as file:
        magic = file.read(len(np.lib.format.MAGIC_PREFIX))
    if magic != np.lib.format.MAGIC_PREFIX:
        raise ValueError("it is empty" if not magic else "it is in neither of cryoSPARC's formats")
    try:
        return np.load(path, allow_pickle=False, max_header_size=LONGEST_HEADER)
    except OSError:
        raise
    except Exception as error:  # numpy parses the header as Python: damage leads to whatever that raises
        raise ValueError(str(error) or type(error).__name__) from error


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


def write_cs(path: str | Path, array: np.ndarray, *, like: Path | None = None) -> None:
    """Write a structured array as a .cs file, atomically.

    Args:
        like: the file that it was made from, whose format is used (default: numpy's).
    """
    stream = like is not None and like.is_file() and is_stream(like)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if stream:
            file.write(encode(array))
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Stored array in format 2.0")  # numpy 1.9 and later read it
            np.save(file, array, allow_pickle=False)
