"""Lists of stacks."""

import pytest

from cryomorph.config.errors import InputError
from cryomorph.io.text import read_stack_list


def test_comments_and_blank_lines_are_left_out(tmp_path):
    (tmp_path / "l.txt").write_text("# stacks\n a.mrcs \n\nfolder/b c.mrcs\n")
    assert read_stack_list(tmp_path / "l.txt") == ["a.mrcs", "folder/b c.mrcs"]


def test_refusals(tmp_path):
    (tmp_path / "l.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match="lists no stack"):
        read_stack_list(tmp_path / "l.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_stack_list(tmp_path / "none.txt")
