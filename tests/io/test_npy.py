"""Arrays on disk: read as numpy wrote them, and nothing but a ValueError where they are damaged or something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryomorph.io.npy import read_npy


def test_an_array_as_numpy_wrote_it(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), [[0, 1, 2], [3, 4, 5]])


def several(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.arange(3), b=np.arange(4))


def cut(path: Path) -> None:
    np.save(path, np.arange(1000))
    path.write_bytes(path.read_bytes()[:300])


def cut_archive(path: Path) -> None:
    several(path)
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b""), "No data left"),
        (lambda path: path.write_text("1\n2\n"), "pickled"),
        (lambda path: np.save(path, np.array([{"a": 1}], dtype=object)), "Object arrays"),
        (several, "of several arrays"),
        (cut, "not fully written|could only read"),
        (cut_archive, "not a zip file"),
    ],
)
def test_what_is_no_array_is_refused(tmp_path, damage, said):
    damage(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=said):
        read_npy(tmp_path / "a.npy")
