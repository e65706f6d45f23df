"""Random parts: disjoint, complete, of the size asked for, the same for the same seed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryomorph.commands.split import divide, source_of
from cryomorph.config.errors import InputError
from cryomorph.config.split import SplitConfig


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
