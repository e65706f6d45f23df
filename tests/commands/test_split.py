"""Random parts: disjoint, complete, of the size asked for, the same for the same seed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryomorph.analysis.selection import select
from cryomorph.commands.split import divide, source_of, split
from cryomorph.commands.train import train
from cryomorph.config.errors import InputError
from cryomorph.config.linear import LinearConfig
from cryomorph.config.prepare import ImageSource
from cryomorph.config.select import Criteria
from cryomorph.config.split import SplitConfig
from cryomorph.io.star import read_star
from cryomorph.particles.listed import listed_rows
from cryomorph.particles.subset import ParticleFile


@given(st.integers(2, 300), st.floats(0.001, 0.999), st.integers(0, 9))
def test_parts_are_a_partition(n, share, seed):
    numbers = np.arange(n) * 3 + 1
    a, b = divide(numbers, share, seed=seed)
    assert len(a) and len(b)
    assert abs(len(a) - share * n) <= 1
    assert (np.diff(a) > 0).all() and (np.diff(b) > 0).all()
    np.testing.assert_array_equal(np.sort(np.concatenate([a, b])), numbers)


def test_parts_are_drawn_evenly_and_by_the_seed():
    first = [divide(np.arange(100), 0.3, seed=seed)[0] for seed in range(300)]
    counts = np.bincount(np.concatenate(first), minlength=100)
    # binomial: 90 expected, standard deviation 7.9
    assert counts.sum() == 300 * 30 and abs(counts - 90).max() < 5 * 7.9
    np.testing.assert_array_equal(first[7], divide(np.arange(100), 0.3, seed=7)[0])
    assert not np.array_equal(first[7], first[8])


def config(source: Path, folder: Path, suffix: str = ".txt", **options: float) -> SplitConfig:
    return SplitConfig(source, (folder / f"a{suffix}", folder / f"b{suffix}"), **options)


def test_what_may_be_divided(tiny_run, tiny_set, tmp_path):
    np.save(tmp_path / "index.npy", np.array([9, 4, 4]))
    assert source_of(config(tiny_run.path, tmp_path)).numbers.tolist() == list(range(400))
    assert source_of(config(tiny_set / "particles.star", tmp_path, ".star")).file is not None
    assert source_of(config(tmp_path / "index.npy", tmp_path)).numbers.tolist() == [4, 9]


def test_lists_of_a_runs_particles_are_turned_into_rows_of_its_file(tiny_set, tmp_path):
    """Numbers of a run of a part of a file, through select, split and analyze, back to the rows that they are."""
    source, folder = tiny_set / "particles.star", tmp_path / "my run"
    rows = np.arange(50, 350, 3)
    np.savetxt(tmp_path / "half.txt", rows, fmt="%d")
    images = ImageSource(index=tmp_path / "half.txt")
    run = train(LinearConfig(source, folder, images=images, zdim=1, iterations=1))
    chosen = select(run, Criteria(nearest=30, to_particle=0))
    chosen.save(tmp_path / "chosen.star")
    split(SplitConfig(tmp_path / "chosen.txt", (tmp_path / "a.txt", tmp_path / "b.txt")))
    (folder / "analysis").mkdir()
    np.savetxt(folder / "analysis" / "outliers.txt", chosen.index, fmt="%d")
    for name in (tmp_path / "chosen.txt", folder / "analysis" / "outliers.txt"):
        assert listed_rows(name, source).tolist() == rows[chosen.index].tolist()
        assert listed_rows(name, folder / "particles.star").tolist() == chosen.index.tolist()
    expected = read_star(tmp_path / "chosen.star")["particles"]["rlnImageName"].tolist()
    found = ParticleFile.open(source).table.select(listed_rows(tmp_path / "chosen.txt", source))
    assert found.particles["rlnImageName"].tolist() == expected
    parts = [listed_rows(tmp_path / f"{part}.txt", source) for part in "ab"]
    assert sorted(np.concatenate(parts).tolist()) == rows[chosen.index].tolist()
    with pytest.raises(InputError, match=r"which was made from rows of .*particles.star, not of .*other.star"):
        listed_rows(tmp_path / "chosen.txt", tmp_path / "other.star")
    (tmp_path / "old.txt").write_text("# 0-based particle numbers of /gone/run\n3\n")
    assert listed_rows(tmp_path / "old.txt", source).tolist() == [3]  # with a warning


def test_what_may_not(tiny_run, tmp_path):
    (tmp_path / "one.txt").write_text("3\n")
    for source, suffix, said in (
        (tmp_path / "gone.star", ".txt", "no such run folder, particle file or index file"),
        (tmp_path, ".txt", "is not a run folder"),
        (tmp_path / "one.txt", ".txt", "holds 1 particles: expected 2 or more to divide"),
        (tiny_run.path, ".cs", "a .cs can only be written from a .cs"),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            source_of(config(source, tmp_path, suffix))
    for name, said in (
        ("empty.npy", r"empty.npy cannot be read as indices \(No data left in file\)"),
        ("empty.txt", "empty.txt holds 0 particles: expected 2 or more"),
        ("empty.cs", "empty.cs is not a whole .cs file"),
    ):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=said):
            source_of(config(tmp_path / name, tmp_path))
    (tmp_path / "two.txt").write_text("3\n4\n")
    with pytest.raises(InputError, match=r"lists numbers alone, so the parts are .txt or .npy too"):
        source_of(config(tmp_path / "two.txt", tmp_path, ".star"))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 90.0, float("nan")])
def test_shares_that_are_none(share):
    with pytest.raises(InputError, match=r"expected a share between 0 and 1, such as 0.9"):
        SplitConfig(Path("x.star"), (Path("a.star"), Path("b.star")), random=share)


def test_a_seed_below_zero():
    with pytest.raises(InputError, match=r"seed -1: expected 0 or more"):
        SplitConfig(Path("x.star"), (Path("a.star"), Path("b.star")), seed=-1)


def test_outputs_that_collide():
    for pair in (("a.star", "a.star"), ("a.star", "a.txt")):
        with pytest.raises(InputError, match="expected two different names"):
            SplitConfig(Path("x.star"), (Path(pair[0]), Path(pair[1])))
    with pytest.raises(InputError, match=r"b.csv: expected a name that ends in"):
        SplitConfig(Path("x.star"), (Path("a.star"), Path("b.csv")))
