"""Which rows of two files are the same particles, by the identifier that both have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryomorph.io.cryosparc import write_cs
from cryomorph.io.star import write_star
from cryomorph.particles.matching import match_particles
from cryomorph.particles.subset import ParticleFile


def star(path: Path, names: list[str]) -> ParticleFile:
    table = pd.DataFrame({"rlnImageName": names})
    table.attrs.update(loop=True)
    write_star(path, {"particles": table})
    return ParticleFile.open(path)


def cryosparc(path: Path, uid: list[int], numbers: list[int]) -> ParticleFile:
    table = np.zeros(len(uid), dtype=[("uid", "u8"), ("blob/path", "S40"), ("blob/idx", "u4")])
    table["uid"], table["blob/path"], table["blob/idx"] = uid, b"J1/a.mrc", numbers
    write_cs(path, table)
    return ParticleFile.open(path)


def test_names_match_in_any_order_with_or_without_leading_zeros(tmp_path):
    a = star(tmp_path / "a.star", ["000003@x/a.mrcs", "1@x/a.mrcs", "7@x/b.mrcs"])
    b = star(tmp_path / "b.star", ["1@x/a.mrcs", "2@x/a.mrcs", "3@x/a.mrcs"])
    found = match_particles(a, b, enough=2)
    assert (found.a.tolist(), found.b.tolist(), found.by) == ([0, 1], [2, 0], "image name")


def test_the_folder_is_ignored_only_if_whole_names_match_too_few(tmp_path):
    a = star(tmp_path / "a.star", ["1@x/a.mrcs", "2@x/a.mrcs"])
    b = star(tmp_path / "b.star", ["1@x/a.mrcs", "2@elsewhere/a.mrcs"])
    assert match_particles(a, b, enough=1).by == "image name"
    found = match_particles(a, b, enough=2)
    assert (found.a.tolist(), found.b.tolist(), found.by) == ([0, 1], [0, 1], "image name without its folder")


def test_a_name_that_a_file_has_twice_is_left_out(tmp_path):
    a = star(tmp_path / "a.star", ["1@a.mrcs", "1@a.mrcs", "2@a.mrcs"])
    b = star(tmp_path / "b.star", ["2@a.mrcs", "1@a.mrcs"])
    found = match_particles(a, b, enough=2)
    assert (found.a.tolist(), found.b.tolist()) == ([2], [0])


@pytest.mark.parametrize(("uid", "by", "rows"), [([9, 8], "uid", [1, 0]), ([1, 2], "image name", [0, 1])])
def test_uids_come_before_names(tmp_path, uid, by, rows):
    a, b = cryosparc(tmp_path / "a.cs", [8, 9], [0, 1]), cryosparc(tmp_path / "b.cs", uid, [0, 1])
    found = match_particles(a, b, enough=2)
    assert (found.by, found.b.tolist()) == (by, rows)


def test_without_enough_the_largest_match_is_returned(tmp_path):
    a, b = star(tmp_path / "a.star", ["1@a.mrcs", "5@a.mrcs"]), star(tmp_path / "b.star", ["1@a.mrcs", "6@a.mrcs"])
    assert len(match_particles(a, b, enough=2)) == 1
    assert len(match_particles(a, star(tmp_path / "c.star", ["9@z.mrcs"]), enough=1)) == 0
