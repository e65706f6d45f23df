"""cryoDRGN's pickles are read; anything else in a pickle is refused before it runs."""

import builtins
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryomorph.config.errors import InputError
from cryomorph.io.cryodrgn import read_ctf, read_index, read_poses

ROTATION = Rotation.random(5, random_state=0).as_matrix().astype(np.float32)


def dump(path: Path, value, protocol=4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_poses_of_every_protocol(tmp_path, protocol):
    shift = np.linspace(-0.2, 0.2, 10).reshape(5, 2)
    rotation, shift_read = read_poses(dump(tmp_path / "pose.pkl", (ROTATION, shift), protocol))
    np.testing.assert_array_equal(rotation, ROTATION)
    np.testing.assert_allclose(shift_read, shift, rtol=1e-6)


def test_poses_without_shifts(tmp_path):
    for value in (ROTATION, (ROTATION,), (ROTATION, None)):
        rotation, shift = read_poses(dump(tmp_path / "pose.pkl", value))
        assert shift is None and rotation.shape == (5, 3, 3)


def test_arrays_of_numpy_1(tmp_path):
    raw = pickle.dumps(np.arange(4), protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "ind.pkl").write_bytes(raw)
    assert read_index(tmp_path / "ind.pkl").tolist() == [0, 1, 2, 3]


def test_ctf_and_index(tmp_path):
    rows = np.arange(18, dtype=np.float32).reshape(2, 9)
    np.testing.assert_array_equal(read_ctf(dump(tmp_path / "ctf.pkl", rows)), rows)
    for value in (np.array([4, 2], np.int32), [4, 2], [np.int64(4), np.int64(2)]):
        assert read_index(dump(tmp_path / "ind.pkl", value)).tolist() == [4, 2]
    np.save(tmp_path / "ind.npy", np.array([4, 2]))
    (tmp_path / "ind.txt").write_text("4\n2\n")
    assert read_index(tmp_path / "ind.npy").tolist() == read_index(tmp_path / "ind.txt").tolist() == [4, 2]


class _Runs:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_does_not_run(tmp_path, protocol):
    trace = tmp_path / "ran"
    for number, function in enumerate((os.system, builtins.eval, builtins.exec)):
        command = f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w')"
        path = dump(tmp_path / f"{number}.pkl", (ROTATION, _Runs(function, command)), protocol)
        with pytest.raises(InputError, match=rf"{number}.pkl: it refers to \w+.{function.__name__}, which is no part"):
            read_poses(path)
    assert not trace.exists()


def test_attributes_of_allowed_modules_are_refused(tmp_path):
    # protocol 4 may name a dotted attribute
    for module, name in (
        ("numpy", "ndarray.tofile"),
        ("numpy", "load"),
        ("_codecs", "open"),
        ("numpy", "f2py.os.system"),
    ):
        code = (
            b"\x80\x04\x8c"
            + bytes([len(module)])
            + module.encode()
            + b"\x8c"
            + bytes([len(name)])
            + name.encode()
            + b"\x93."
        )
        (tmp_path / "x.pkl").write_bytes(code)
        with pytest.raises(InputError, match=f"it refers to {module}.{name}"):
            read_index(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((ROTATION, np.full((5, 2), 20.0)), "shifts up to 20: expected fractions"),
        ((ROTATION, np.zeros((4, 2))), r"expected \(5, 2\)"),
        ((ROTATION, np.zeros((5, 2)), 1), "3 parts"),
        ((), "0 parts"),
        (np.zeros((5, 3)), r"expected rotations \(n, 3, 3\)"),
        (2 * ROTATION, "row 0 .* no rotation"),
        (np.full((5, 3, 3), np.nan), "not finite"),
        (np.array(["a"]), "expected numbers"),
        (np.array([None]), "expected numbers"),
        ([[1], [1, 2]], "different lengths"),
    ],
)
def test_wrong_poses(tmp_path, value, message):
    with pytest.raises(InputError, match=message):
        read_poses(dump(tmp_path / "pose.pkl", value))


def test_other_wrong_files(tmp_path):
    with pytest.raises(InputError, match=r"expected \(n, 9\)"):
        read_ctf(dump(tmp_path / "ctf.pkl", np.zeros((2, 8))))
    for wrong in (np.zeros(3), np.zeros((2, 2), int), np.array([-1]), np.array([True])):
        with pytest.raises(InputError, match="expected"):
            read_index(dump(tmp_path / "ind.pkl", wrong))
    with pytest.raises(InputError, match=r"collections\.OrderedDict"):
        read_ctf(dump(tmp_path / "ctf.pkl", OrderedDict()))
    with pytest.raises(InputError, match="cannot be read"):
        read_ctf(tmp_path / "none.pkl")
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps(np.arange(100))[:50])
    with pytest.raises(InputError, match="not a whole pickle"):
        read_index(tmp_path / "cut.pkl")
    (tmp_path / "bad.txt").write_text("one\n")
    with pytest.raises(InputError, match="cannot be read as indices"):
        read_index(tmp_path / "bad.txt")
