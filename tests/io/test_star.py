"""STAR files: every string kept; the starfile library as a second opinion."""

import numpy as np
import pandas as pd
import pytest
import starfile

from cryomorph.config.errors import InputError
from cryomorph.io.star import quote, read_star, unquote, write_star

TWO_BLOCKS = """
# version 30001

data_optics

loop_\x20
_rlnOpticsGroup #1\x20
_rlnOddZernike #2\x20
           1 [0.0680480107376,0.0982451014894]\x20


# version 30001

data_particles

loop_
_rlnImageName #1
_rlnDefocusU #2
_unknownColumn #3
 000001@a#1.mrcs\t1.30e+04   nan

 # a comment
 000002@a#1.mrcs   0013.10 <NA>\x20

# version 30001

data_job

_rlnJobTypeLabel   relion.refine3d
_rlnTitle "two words"
"""


def write(tmp_path, text):
    path = tmp_path / "file.star"
    path.write_text(text)
    return path


def test_every_string_is_kept(tmp_path):
    blocks = read_star(write(tmp_path, TWO_BLOCKS))
    assert list(blocks) == ["optics", "particles", "job"]
    assert list(blocks["particles"].columns) == ["rlnImageName", "rlnDefocusU", "unknownColumn"]
    assert blocks["particles"].to_numpy().tolist() == [
        ["000001@a#1.mrcs", "1.30e+04", "nan"],
        ["000002@a#1.mrcs", "0013.10", "<NA>"],
    ]
    assert blocks["optics"]["rlnOddZernike"].tolist() == ["[0.0680480107376,0.0982451014894]"]
    assert blocks["job"].to_numpy().tolist() == [["relion.refine3d", '"two words"']]
    assert blocks["particles"].attrs == {"loop": True, "version": "30001"}


def test_round_trip_is_exact(tmp_path):
    blocks = read_star(write(tmp_path, TWO_BLOCKS))
    write_star(tmp_path / "again.star", blocks)
    again = read_star(tmp_path / "again.star")
    assert list(again) == list(blocks)
    for name, table in blocks.items():
        pd.testing.assert_frame_equal(again[name], table)
        assert again[name].attrs == table.attrs
    assert "# version 30001" in (tmp_path / "again.star").read_text()


def test_what_is_written_reads_with_starfile(tmp_path):
    write_star(tmp_path / "again.star", read_star(write(tmp_path, TWO_BLOCKS.replace("a#1", "a"))))
    blocks = starfile.read(tmp_path / "again.star", parse_as_string=["unknownColumn"])
    assert list(blocks) == ["optics", "particles", "job"]
    np.testing.assert_array_equal(blocks["particles"]["rlnDefocusU"], [13000, 13.1])
    assert blocks["job"]["rlnTitle"] == "two words"


def test_old_headers_blank_names_and_tabs(tmp_path):
    path = write(tmp_path, "data_\nloop_\n_rlnImageName\n\t_rlnVoltage\n1@a.mrcs\t300\n\n2@a.mrcs 300\n")
    assert read_star(path)[""].to_numpy().tolist() == [["1@a.mrcs", "300"], ["2@a.mrcs", "300"]]
    windows = write(tmp_path, "data_images\r\nloop_\r\n_rlnImageName #1\r\n1@a.mrcs\r\n")
    assert read_star(windows)["images"]["rlnImageName"].tolist() == ["1@a.mrcs"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_of_editors_are_skipped(tmp_path, encoding):
    (tmp_path / "pc.star").write_bytes(TWO_BLOCKS.replace("\n", "\r\n").encode(encoding))
    plain = read_star(write(tmp_path, TWO_BLOCKS))
    found = read_star(tmp_path / "pc.star")
    assert list(found) == list(plain)
    pd.testing.assert_frame_equal(found["particles"], plain["particles"])
    (tmp_path / "pc.star").write_bytes("data_optics\nloop_\n_a\n1\n".encode(encoding))
    assert list(read_star(tmp_path / "pc.star")) == ["optics"]  # in the first line


def test_bytes_that_are_not_utf8_are_written_again(tmp_path):
    raw = b"data_p\n\nloop_\n_a #1\n_b #2\nProbe\xe9 1\n\xff\xfe 2\n\n"
    (tmp_path / "latin.star").write_bytes(b"\n" + raw)
    write_star(tmp_path / "again.star", read_star(tmp_path / "latin.star"))
    assert (tmp_path / "again.star").read_bytes() == b"\n" + raw


def test_a_data_value_is_no_block(tmp_path):
    table = read_star(write(tmp_path, "data_\nloop_\n_a\n_b\ndata_x/m.mrc 1\n"))[""]
    assert table.to_numpy().tolist() == [["data_x/m.mrc", "1"]]


def test_blanks_in_quotes_and_brackets(tmp_path):
    path = write(tmp_path, "data_\nloop_\n_a\n_b\n_c\n\"x y@z\" it's.mrc [1, 2]\n'p q' plain []\n")
    table = read_star(path)[""]
    assert table.to_numpy().tolist() == [['"x y@z"', "it's.mrc", "[1, 2]"], ["'p q'", "plain", "[]"]]
    assert unquote(table["a"]).tolist() == ["x y@z", "p q"]
    assert unquote(table["b"]).tolist() == ["it's.mrc", "plain"]
    write_star(tmp_path / "again.star", {"": table})
    pd.testing.assert_frame_equal(read_star(tmp_path / "again.star")[""], table)
    assert quote(pd.Series(["a b", "c", ""], dtype=object)).tolist() == ['"a b"', "c", '""']


def test_an_empty_loop(tmp_path):
    table = read_star(write(tmp_path, "data_particles\nloop_\n_a #1\n_b #2\n"))["particles"]
    assert list(table.columns) == ["a", "b"] and len(table) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data_p\nloop_\n_a\n_b\n1 2\n3\n", r"block data_p: row 1 \(0-based\) has 1 values .* names 2 columns"),
        ("data_p\nloop_\n_a\n_b\n1 2\n3 4 5\n", r"row 1 \(0-based\) has 3 values"),
        ("data_p\nloop_\n_a\n_b\n1 2\n3 4 5 6 7\n", r"row 1 \(0-based\) has 5 values"),
        ("data_p\nloop_\n_a\n_a\n1 2\n", "columns a twice"),
        ("data_p\nloop_\n1 2\n", "no column names"),
        ("data_p\n_a 1\ndata_p\n_b 1\n", "two blocks named data_p"),
        ("data_p\nstray words\n", "no `_name value` pair"),
        ("hello\n", "no line that starts a block"),
    ],
)
def test_errors_say_where(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_star(write(tmp_path, text))


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(InputError, match=r"no\.star cannot be read"):
        read_star(tmp_path / "no.star")
    (tmp_path / "b.star").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"b\.star cannot be read"):
        read_star(tmp_path / "b.star")


@pytest.mark.accept
@pytest.mark.parametrize("name", ["relion31", "relion5", "empiar_10076_7", "toy_projections"])
def test_real_files_agree_with_starfile_and_round_trip(shared, tmp_path, name):
    path = shared / "data" / "readers" / f"{name}.star"
    blocks = read_star(path)
    names = [column for table in blocks.values() for column in table.columns]
    theirs = starfile.read(path, always_dict=True, parse_as_string=names)
    assert list(theirs) == list(blocks)
    for block, table in blocks.items():
        assert table.to_numpy().tolist() == theirs[block].to_numpy().tolist()
        assert list(table.columns) == list(theirs[block].columns)
    write_star(tmp_path / "again.star", blocks)
    for block, table in read_star(tmp_path / "again.star").items():
        pd.testing.assert_frame_equal(table, blocks[block])
