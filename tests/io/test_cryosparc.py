"""cryoSPARC's .cs files: columns, passthroughs, refusals."""

from pathlib import Path

import numpy as np
import pytest

from cryomorph.config.errors import InputError
from cryomorph.io.cryosparc import add_columns, is_stream, merge_passthrough, read_cs, write_cs

MADE = Path(__file__).parents[1] / "fixtures" / "cryosparc_tools"


def table(**columns):
    arrays = {name.replace("__", "/"): np.asarray(values) for name, values in columns.items()}
    dtype = [(name, values.dtype, values.shape[1:]) for name, values in arrays.items()]
    out = np.empty(len(next(iter(arrays.values()))), dtype)
    for name, values in arrays.items():
        out[name] = values
    return out


def test_round_trip(tmp_path):
    array = table(uid=np.array([3, 1], np.uint64), blob__path=[b">J1/a.mrc", b"b"], alignments3D__pose=np.eye(3)[:2])
    write_cs(tmp_path / "p.cs", array)
    again = read_cs(tmp_path / "p.cs")
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)


def test_passthrough_is_matched_by_uid():
    main = table(uid=np.array([7, 3, 5], np.uint64), a=[1.0, 2.0, 3.0])
    other = table(
        uid=np.array([5, 9, 7, 3], np.uint64), a=[0.0] * 4, ctf__x=[50, 90, 70, 30], v=np.arange(8).reshape(4, 2)
    )
    merged = merge_passthrough(main, other, "p.cs")
    assert merged.dtype.names == ("uid", "a", "ctf/x", "v")
    assert merged["a"].tolist() == [1, 2, 3]
    assert merged["ctf/x"].tolist() == [70, 30, 50]
    assert merged["v"].tolist() == [[4, 5], [6, 7], [0, 1]]


def test_passthrough_that_lacks_particles():
    main = table(uid=np.array([7, 99, 5], np.uint64))
    other = table(uid=np.array([5, 7], np.uint64), b=[1, 2])
    with pytest.raises(InputError, match=r"pass.cs lacks 1 of the 3 particles, first row 1 \(0-based, uid 99\)"):
        merge_passthrough(main, other, "pass.cs")


def test_columns_are_replaced_in_place_or_added():
    array = table(uid=[1, 2], a=np.zeros(2, np.float32), b=[5, 6])
    out = add_columns(array, {"a": np.array([0.5, 1.5]), "c": np.ones((2, 3), np.float32)})
    assert out.dtype.names == ("uid", "a", "b", "c")
    assert out.dtype["a"] == np.float32 and out["a"].tolist() == [0.5, 1.5] and out["b"].tolist() == [5, 6]
    assert array["a"].tolist() == [0, 0]


@pytest.mark.parametrize("name", ["stream.cs", "plain_stream.cs"])
def test_streams_of_cryosparc_tools_are_its_numpy_files(tmp_path, name):
    expected, found = read_cs(MADE / "numpy.cs"), read_cs(MADE / name)
    assert is_stream(MADE / name) and not is_stream(MADE / "numpy.cs")
    write_cs(tmp_path / "again.cs", found, like=MADE / name)
    write_cs(tmp_path / "numpy.cs", found, like=MADE / "numpy.cs")
    assert is_stream(tmp_path / "again.cs") and not is_stream(tmp_path / "numpy.cs")
    for array in (found, read_cs(tmp_path / "again.cs"), read_cs(tmp_path / "numpy.cs")):
        assert array.dtype.names == expected.dtype.names
        for column in expected.dtype.names:
            assert array[column].dtype.kind == expected[column].dtype.kind
            np.testing.assert_array_equal(array[column], expected[column])


@pytest.mark.parametrize("name", ["stream.cs", "plain_stream.cs"])
def test_a_stream_that_is_damaged_is_named(tmp_path, name):
    whole = (MADE / name).read_bytes()
    for cut in (6, 20, 400, len(whole) // 2, len(whole) - 200):
        (tmp_path / "cut.cs").write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"cut\.cs is not a whole"):
            read_cs(tmp_path / "cut.cs")
    for at in np.random.default_rng(0).integers(10, len(whole), 100):  # any byte: read, or refused in a sentence
        (tmp_path / "wrong.cs").write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            read_cs(tmp_path / "wrong.cs")
        except InputError as error:
            assert "wrong.cs" in str(error)


def test_an_empty_stream(tmp_path):
    empty = read_cs(MADE / "numpy.cs")[:0]
    write_cs(tmp_path / "empty.cs", empty, like=MADE / "stream.cs")
    assert read_cs(tmp_path / "empty.cs").dtype.names == empty.dtype.names


def test_a_header_of_hundreds_of_columns(tmp_path):
    array = np.zeros(3, [("uid", "u8")] + [(f"alignments_class3D_{i}/class_posterior", "f4") for i in range(2000)])
    array["alignments_class3D_1999/class_posterior"] = [1, 2, 3]
    write_cs(tmp_path / "many.cs", array)
    np.testing.assert_array_equal(read_cs(tmp_path / "many.cs"), array)


def test_refusals(tmp_path):
    group = tmp_path / "P1_J2_particles.csg"
    group.write_text(
        "group:\n  type: particle\nresults:\n  blob:\n    metafile: '>P1_J2_particles.cs'\n    type: particle.blob\n"
    )
    with pytest.raises(InputError, match=r"is a \.csg, .* give P1_J2_particles.cs"):
        read_cs(group)
    with pytest.raises(InputError, match="cannot be read"):
        read_cs(tmp_path / "none.cs")
    (tmp_path / "new.cs").write_bytes(b"\x94CSDAT" + bytes(100))
    with pytest.raises(InputError, match=r"not a whole .cs file .*neither of cryoSPARC's formats.*cryosparc-tools"):
        read_cs(tmp_path / "new.cs")
    with (tmp_path / "objects.cs").open("wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="not a whole"):
        read_cs(tmp_path / "objects.cs")
    with (tmp_path / "plain.cs").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match="no column uid"):
        read_cs(tmp_path / "plain.cs")


@pytest.mark.accept
@pytest.mark.parametrize("name", ["cryosparc_P12_J24_001_particles", "empiar_10076_7"])
def test_real_files_round_trip(shared, tmp_path, name):
    array = read_cs(shared / "data" / "readers" / f"{name}.cs")
    write_cs(tmp_path / "again.cs", array)
    again = np.load(tmp_path / "again.cs")
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)
