"""Whole or not at all."""

import pytest

from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path, check_output, is_leftover, temporary_path


def test_the_file_appears_under_its_name_with_its_folder(tmp_path):
    target = tmp_path / "new" / "map.mrc"
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == target.parent and temporary.suffix == ".mrc" and not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.star"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_temporary_name_says_whose_it_is(tmp_path):
    mine = temporary_path(tmp_path / "map.mrc")
    assert mine.name.startswith(".map-") and mine.suffix == ".mrc"
    assert not is_leftover(mine)
    assert not is_leftover(tmp_path / ".map-abc.mrc") and not is_leftover(tmp_path / "map.mrc")


def test_an_output_may_be_new_or_replaced_when_told(tmp_path):
    check_output(tmp_path / "deep" / "new.mrc", inputs=(tmp_path / "a.mrc", None))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.mrc").write_text("old")
    with pytest.raises(InputError, match=r"a\.mrc exists already: give --overwrite to replace it, or another -o"):
        check_output(tmp_path / "a.mrc")
    check_output(tmp_path / "a.mrc", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mrc"]


def test_an_input_is_never_an_output(tmp_path, monkeypatch):
    (tmp_path / "a.mrc").write_text("precious")
    (tmp_path / "link.mrc").symlink_to("a.mrc")
    (tmp_path / "hard.mrc").hardlink_to(tmp_path / "a.mrc")
    monkeypatch.chdir(tmp_path)
    for name in ("a.mrc", "link.mrc", "hard.mrc", "./a.mrc", "../" + tmp_path.name + "/a.mrc"):
        with pytest.raises(InputError, match="is one of the files that are read"):
            check_output(tmp_path / name, inputs=(type(tmp_path)("a.mrc"),), overwrite=True)


def test_what_is_no_file_is_no_output(tmp_path):
    with pytest.raises(InputError, match="is a folder: expected a file name"):
        check_output(tmp_path, overwrite=True)
    with pytest.raises(InputError, match="is not a regular file"):
        check_output(type(tmp_path)("/dev/null"), overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written to \(not a directory\)"):
        check_output(tmp_path / "file" / "inside.mrc")
