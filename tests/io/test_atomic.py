"""Whole or not at all."""

import pytest

from cryomorph.io.atomic import atomic_path


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
