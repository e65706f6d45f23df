"""cryoDRGN's pose, CTF and index files, read without letting a pickle run code; none is ever written."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from cryomorph.config.errors import InputError
from cryomorph.io.text import read_text

# What arrays are rebuilt from, under numpy 1 and 2, pickle protocols 0 to 5.
ALLOWED = frozenset(
    [("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")]
    + [
        (module, name)
        for core in ("numpy.core", "numpy._core")
        for module, name in (
            (f"{core}.multiarray", "_reconstruct"),
            (f"{core}.multiarray", "scalar"),
            (f"{core}.numeric", "_frombuffer"),
        )
    ]
)
CTF_COLUMNS = 9


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows only numpy arrays and the tuples and lists that hold them."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise InputError(f"it refers to {module}.{name}, which is no part of a numpy array, so it is not read")
        return super().find_class(module, name)


def _load(path: Path, *, pickles: int = 1) -> Any:
    """What a file holds: one pickle, or a list of several that follow each other."""
    try:
        with path.open("rb") as file:
            found = [_ArrayUnpickler(file, encoding="latin1").load() for _ in range(pickles)]
            return found[0] if pickles == 1 else found
    except InputError as error:
        raise InputError(f"{path}: {error}; expected a cryoDRGN .pkl of arrays") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give the path of a cryoDRGN .pkl") from error
    except Exception as error:  # a damaged pickle raises whatever its broken opcodes happen to call
        raise InputError(f"{path} is not a whole pickle ({error}): expected a cryoDRGN .pkl of arrays") from error


def _numeric(value: object, path: Path) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{path} holds rows of different lengths: expected a cryoDRGN .pkl of arrays") from error
    if array.dtype.kind not in "iuf":
        raise InputError(f"{path} holds values of type {array.dtype}: expected numbers")
    if not np.isfinite(array).all():
        raise InputError(f"{path} holds values that are not finite: expected numbers")
    return array


def read_poses(path: str | Path) -> tuple[Float32[np.ndarray, "n 3 3"], Float32[np.ndarray, "n 2"] | None]:
    """Rotations (`p = R r`, cryoDRGN's convention is ours) and shifts as a fraction of the box, None where not stored.

    The shift centres the particle, as `rlnOriginX / box` does.

    Raises:
        InputError: the file is not such a pickle, shapes are wrong, rotations are none, or shifts are not fractions.
    """
    path = Path(path)
    value = _load(path)
    parts = value if isinstance(value, tuple) else (value,)
    rotation = _numeric(parts[0], path) if parts else np.empty(0)
    if len(parts) > 2 or rotation.ndim != 3 or rotation.shape[1:] != (3, 3):
        raise InputError(
            f"{path} holds {len(parts)} parts, the first of shape {rotation.shape}: expected rotations (n, 3, 3) or "
            "a tuple of rotations and shifts (n, 2)"
        )
    defect = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2), initial=0)
    if (defect > 1e-2).any():
        raise InputError(f"{path}: the matrix of row {int((defect > 1e-2).argmax())} (0-based) is no rotation")
    if len(parts) == 1 or parts[1] is None:
        return rotation.astype(np.float32), None
    shift = _numeric(parts[1], path)
    if shift.shape != (len(rotation), 2):
        raise InputError(f"{path} holds shifts of shape {shift.shape}: expected ({len(rotation)}, 2)")
    if (np.abs(shift) > 1).any():
        raise InputError(
            f"{path} holds shifts up to {np.abs(shift).max():.4g}: expected fractions of the box, at most 1; "
            "divide shifts in pixels by the box"
        )
    return rotation.astype(np.float32), shift.astype(np.float32)


def read_ctf(path: str | Path) -> Float64[np.ndarray, "n 9"]:
    """CTF rows: box, pixel_A, defocus_u_A, defocus_v_A, angle_deg, voltage_kV, cs_mm, amplitude contrast, phase (deg).

    Raises:
        InputError: the file is not such a pickle, or the shape is wrong.
    """
    path = Path(path)
    array = _numeric(_load(path), path)
    if array.ndim != 2 or array.shape[1] != CTF_COLUMNS:
        raise InputError(
            f"{path} has shape {array.shape}: expected (n, {CTF_COLUMNS}), as `cryodrgn parse_ctf_*` writes"
        )
    return array.astype(np.float64)


def read_index_pickle(path: Path) -> np.ndarray:
    """The array of numbers in cryoDRGN's `ind.pkl`.

    Raises:
        InputError: the file is not such a pickle.
    """
    return _numeric(_load(path), path)


def read_latent(path: str | Path) -> tuple[Float32[np.ndarray, "n zdim"], Float32[np.ndarray, "n zdim"]]:
    """Latent means and log-variances of cryoDRGN's `z.pkl`: two pickles, one after the other.

    Raises:
        InputError: the file is not such a pair, or their shapes differ.
    """
    path = Path(path)
    mean, log_variance = (_numeric(value, path) for value in _load(path, pickles=2))
    if mean.ndim != 2 or mean.shape != log_variance.shape:
        raise InputError(
            f"{path} holds arrays of shapes {mean.shape} and {log_variance.shape}: expected latent means and "
            "log-variances, one row a particle"
        )
    return mean.astype(np.float32), log_variance.astype(np.float32)


def read_config(path: str | Path) -> dict[str, Any]:
    """cryoDRGN's `config.yaml`, read without letting it make objects.

    Raises:
        InputError: the file is missing, is no YAML, or lacks a part that every cryoDRGN 4 run has.
    """
    import yaml

    path = Path(path)
    try:
        content = yaml.safe_load(read_text(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): expected cryoDRGN's config.yaml") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    for part in ("dataset_args", "lattice_args", "model_args"):
        if not isinstance(content, dict) or not isinstance(content.get(part), dict):
            raise InputError(f"{path} has no {part}: expected the config.yaml of cryoDRGN 4")
    return content
