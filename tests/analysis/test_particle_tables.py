"""Tables with a row for each particle: what is wrong with a file is said in one sentence, with the command to run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cryomorph.analysis.particle_tables import (
    LandscapeTables,
    LatentTables,
    read_coordinates,
    read_labels,
    read_values,
)
from cryomorph.config.errors import InputError
from cryomorph.runs.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of five particles, as far as tables need one."""
    run = RunFolder(tmp_path)
    run.save_array("latent_mean.npy", np.zeros((5, 2), np.float32))
    (tmp_path / "model.safetensors").touch()
    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.npy"


@pytest.mark.parametrize(
    ("read", "right", "wrong"),
    [
        (
            read_labels,
            [np.array([0, 3, -1, 2, 2]), np.arange(5, dtype=">i2"), np.arange(5, dtype=np.uint8)],
            [np.zeros((5, 2), int), np.zeros(5), np.zeros(5, bool)],
        ),
        (
            read_values,
            [np.arange(5.0), np.arange(5, dtype=">f4")],
            [np.zeros((5, 2)), np.arange(5), np.full(5, np.nan), np.full(5, np.inf), np.ones(5, complex)],
        ),
        (
            read_coordinates,
            [np.ones((5, 2), np.float32), np.ones((5, 3), ">f4")],
            [np.zeros((5, 2), int), np.full((5, 2), np.nan), np.ones((5, 2, 2)), np.ones(5), np.ones((5, 2), "c8")],
        ),
    ],
)
def test_tables_hold_what_they_should_in_any_byte_order(read, right, wrong, run, path):
    for table in right:
        np.save(path, table)
        found = read(path, run, made_by="make")
        np.testing.assert_array_equal(found, table)
        assert found.dtype.isnative
    for table in wrong:
        np.save(path, table)
        with pytest.raises(InputError, match=r"table.npy holds .*: expected .*; `make` makes it again"):
            read(path, run, made_by="make")


@pytest.mark.parametrize("read", [read_labels, read_values, read_coordinates])
def test_damaged_files_are_named_with_the_command_that_makes_them(read, run, path):
    with pytest.raises(InputError, match=r"table.npy: no such file; `make` makes it"):
        read(path, run, made_by="make")
    np.save(path, np.arange(5))
    whole = path.read_bytes()
    np.savez(path.with_suffix(""), np.arange(5))
    archive = path.with_suffix(".npz").read_bytes()
    for damaged in (b"", b"text", whole[:20], whole[:-3], archive):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"table.npy cannot be read \(.*\): `make` makes it again"):
            read(path, run, made_by="make")
    for wrong in (np.zeros((4, 2)), np.array(3), np.array(["a"] * 6)):
        np.save(path, wrong)
        with pytest.raises(InputError, match=r"the run has 5 particles: make it again with `make`"):
            read(path, run, made_by="make")
    np.save(path, np.array([{"a": 1}] * 5, dtype=object))
    with pytest.raises(InputError, match="cannot be read"):
        read(path, run, made_by="make")


def test_a_table_that_is_older_than_the_model_is_said_to_be(run, path, capsys):
    np.save(path, np.arange(5))
    read_labels(path, run, made_by="make")
    assert "older" not in capsys.readouterr().err
    os.utime(run.path / "model.safetensors", (2e9, 2e9))  # trained again since
    assert len(read_labels(path, run, made_by="make")) == 5
    assert "table.npy is older than the model" in capsys.readouterr().err.replace("\n", " ")


def test_every_table_is_read_from_its_file(run):
    latent, landscape = LatentTables(run, run.path / "analysis"), LandscapeTables.of(run)
    for tables, name, read in (
        (latent, "kmeans_labels.npy", latent.clusters),
        (latent, "gmm_labels.npy", latent.mixture),
        (latent, "umap.npy", latent.umap),
        (landscape, "states.npy", landscape.states),
        (landscape, "coordinates.npy", landscape.coordinates),
        (landscape, "curve.npy", landscape.curve),
    ):
        with pytest.raises(InputError, match=rf"{name}: no such file; `cryomorph (analyze|landscape) .*` makes it"):
            read()
        tables.folder.mkdir(exist_ok=True)
        labels = name in ("kmeans_labels.npy", "gmm_labels.npy", "states.npy")
        expected = np.arange(5) if labels or "curve" in name else np.random.default_rng(0).normal(size=(5, 2))
        np.save(tables.folder / name, expected.astype(np.int64 if labels else np.float32))
        np.testing.assert_allclose(read(), expected, rtol=1e-6)
