"""Lists of stacks and of numbers."""

import pickle

import numpy as np
import pytest

from cryomorph.config.errors import InputError
from cryomorph.io.numbers import read_index, read_numbers
from cryomorph.io.text import read_stack_list


def test_comments_and_blank_lines_are_left_out(tmp_path):
    (tmp_path / "l.txt").write_text("# stacks\n a.mrcs \n\nfolder/b c.mrcs\n")
    assert read_stack_list(tmp_path / "l.txt") == ["a.mrcs", "folder/b c.mrcs"]


def test_byte_order_marks_are_skipped(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "l.txt").write_text("a.mrcs\nb.mrcs\n", encoding=encoding)
        assert read_stack_list(tmp_path / "l.txt") == ["a.mrcs", "b.mrcs"]
        (tmp_path / "i.txt").write_text("3\n1\n", encoding=encoding)
        assert read_index(tmp_path / "i.txt").tolist() == [3, 1]


def test_index_files_of_every_kind(tmp_path):
    for dtype in ("<u8", ">i4", "<f4", "u1"):
        np.save(tmp_path / "i.npy", np.array([200, 7], dtype))
        assert (
            read_index(tmp_path / "i.npy").tolist()
            == read_numbers(tmp_path / "i.npy", 201, what="particle", of="the run").tolist()
            == [200, 7]
        )
    (tmp_path / "ind.pkl").write_bytes(pickle.dumps(np.array([2, 0])))
    assert read_numbers(tmp_path / "ind.pkl", 3, what="particle", of="the run").tolist() == [2, 0]
    np.save(tmp_path / "i.npy", np.array([2**64 - 1], np.uint64))
    with pytest.raises(InputError, match="expected one row of whole numbers"):
        read_index(tmp_path / "i.npy")


def test_refusals(tmp_path):
    (tmp_path / "l.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match="lists no stack"):
        read_stack_list(tmp_path / "l.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_stack_list(tmp_path / "none.txt")
