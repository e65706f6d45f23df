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
from cryomorph.io.cryodrgn import read_config, read_ctf, read_latent, read_poses
from cryomorph.io.numbers import read_index

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
    for wrong in (np.full(3, 0.5), np.zeros((2, 2), int), np.array([-1]), np.array([True])):
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


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_latent_points_are_two_pickles_in_a_row(tmp_path, protocol):
    mean, log_variance = np.random.default_rng(0).normal(size=(2, 7, 3))
    with (tmp_path / "z.pkl").open("wb") as file:
        pickle.dump(mean.astype(np.float32), file, protocol)
        pickle.dump(log_variance, file, protocol)
    found = read_latent(tmp_path / "z.pkl")
    for array, expected in zip(found, (mean, log_variance), strict=True):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected.astype(np.float32))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((np.zeros((3, 2)),), "not a whole pickle"),
        ((np.zeros((3, 2)), np.zeros((3, 1))), r"shapes \(3, 2\) and \(3, 1\): expected latent means"),
        ((np.zeros(3), np.zeros(3)), r"shapes \(3,\) and \(3,\): expected latent means"),
        ((np.zeros((3, 2)), np.full((3, 2), np.inf)), "not finite"),
        ((np.zeros((3, 2)), OrderedDict()), r"z.pkl: it refers to collections\.OrderedDict"),
        ((np.zeros((3, 2)), np.array(["a"])), "expected numbers"),
    ],
)
def test_wrong_latent_points(tmp_path, values, message):
    (tmp_path / "z.pkl").write_bytes(b"".join(pickle.dumps(value) for value in values))
    with pytest.raises(InputError, match=message):
        read_latent(tmp_path / "z.pkl")


def test_a_malicious_second_pickle_does_not_run(tmp_path):
    trace = tmp_path / "ran"
    harmful = pickle.dumps(_Runs(os.system, f"touch {trace}"))
    (tmp_path / "z.pkl").write_bytes(pickle.dumps(np.zeros((3, 2))) + harmful)
    with pytest.raises(InputError, match=r"z.pkl: it refers to \w+.system"):
        read_latent(tmp_path / "z.pkl")
    assert not trace.exists()


CONFIG = """\
cmd: [cryodrgn, train_vae, particles.mrcs]
dataset_args: {ctf: null, ind: null, norm: [0.0, 31.5], particles: particles.mrcs}
lattice_args: {D: 33, extent: 0.5}
model_args: {domain: fourier, zdim: 8, feat_sigma: 0.5}
time: 2026-01-02 03:04:05.678
"""


def test_a_config_is_read_as_plain_values(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    found = read_config(tmp_path / "config.yaml")
    assert found["dataset_args"] == {"ctf": None, "ind": None, "norm": [0.0, 31.5], "particles": "particles.mrcs"}
    assert found["lattice_args"] == {"D": 33, "extent": 0.5}
    assert found["model_args"]["zdim"] == 8


@pytest.mark.parametrize("part", ["dataset_args", "lattice_args", "model_args"])
def test_a_config_that_lacks_a_part_is_refused(tmp_path, part):
    path = tmp_path / "config.yaml"
    for text in (CONFIG.replace(part, "other"), f"{CONFIG}\n{part}: 3\n"):
        path.write_text(text)
        with pytest.raises(InputError, match=f"config.yaml has no {part}: expected the config.yaml of cryoDRGN 4"):
            read_config(path)


def test_a_config_makes_no_objects(tmp_path):
    path, trace = tmp_path / "config.yaml", tmp_path / "ran"
    for tag in (
        f"!!python/object/apply:os.system ['touch {trace}']",
        "!!python/name:os.system",
        "!!python/object:collections.OrderedDict {}",
        "!!python/tuple [1, 2]",
    ):
        path.write_text(f"{CONFIG}\nseed: {tag}\n")
        with pytest.raises(InputError, match=r"config\.yaml is not YAML: could not determine a constructor") as caught:
            read_config(path)
        assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_other_wrong_configs(tmp_path):
    path = tmp_path / "config.yaml"
    with pytest.raises(InputError, match=r"config.yaml cannot be read \(No such file"):
        read_config(path)
    for content, message in (
        (b"a: [1, 2", "is not YAML: "),
        (b"\xff\xfe\x00\x00bad", "is not YAML: "),
        (b"", "has no dataset_args"),
        (b"- 1\n- 2\n", "has no dataset_args"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_config(path)
