"""Arrays on disk: read as numpy wrote them, and nothing but a ValueError where they are damaged or something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryomorph.config.errors import InputError
from cryomorph.io.npy import read_array, read_npy


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


def test_an_array_of_a_known_shape(tmp_path):
    path = tmp_path / "a.npy"
    values = np.arange(6.0).reshape(3, 2)
    for written in (values.astype("f4"), values.astype(">f4"), values.astype(">f8"), values.astype("f2")):
        np.save(path, written)
        found = read_array(path, (None, 2), kind="float", again="make it again")
        assert found.dtype == np.float32 and found.dtype.isnative
        np.testing.assert_array_equal(found, values)
    np.save(path, np.arange(3, dtype=">i2"))
    found = read_array(path, (3,), kind="int", again="make it again")
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, np.arange(3))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 2), "f4"), r"has shape \(2, 2\), expected \(3, n\): make it again"),
        (np.zeros(3, "f4"), r"has shape \(3,\), expected \(3, n\)"),
        (np.full((3, 2), "x"), "holds <U1, expected numbers"),
        (np.zeros((3, 2), int), "holds int64, expected numbers"),
        (np.full((3, 2), np.nan), "has values that are not finite"),
        (np.full((3, 2), 1e300), "has values that are not finite"),
    ],
)
def test_an_array_that_is_another_is_said(tmp_path, array, said):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=rf"a\.npy {said}"):
        read_array(tmp_path / "a.npy", (3, None), kind="float", again="make it again")


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x0e\x00{'descr': (((\n"]
)
def test_a_file_that_is_no_array_is_said(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npy cannot be read \(.+\): make it again"):
        read_array(tmp_path / "a.npy", (3,), kind="int", again="make it again")
    with pytest.raises(InputError, match=r"b\.npy cannot be read \(No such file or directory\): make it again"):
        read_array(tmp_path / "b.npy", (3,), kind="int", again="make it again")
