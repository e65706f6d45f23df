"""Selections: each criterion against a plain calculation, sets combined as sets, and every refusal in a sentence."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon

from cryomorph.analysis.lasso import inside, read_polygon
from cryomorph.analysis.particle_columns import ParticleColumns
from cryomorph.analysis.selection import combine, select, with_label
from cryomorph.analysis.selection_files import read_particle_numbers, write_numbers
from cryomorph.config.errors import InputError
from cryomorph.config.select import Criteria, SelectConfig
from cryomorph.runs.folder import RunFolder

N = 400
KMEANS, MIXTURE, STATES = np.arange(N) % 5, np.arange(N) // 100, np.arange(N) % 3 - 1
UMAP = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
VOLUME = np.random.default_rng(1).normal(size=(N, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The tiny run with an analysis and a landscape, whose numbers are made up."""
    path = tmp_path_factory.mktemp("select") / "run"
    shutil.copytree(tiny_run.path, path, symlinks=True)
    for folder, arrays in {
        "analysis": {"kmeans_labels": KMEANS, "gmm_labels": MIXTURE, "umap": UMAP},
        "landscape": {"states": STATES, "coordinates": VOLUME},
    }.items():
        (path / folder).mkdir()
        for name, array in arrays.items():
            np.save(path / folder / f"{name}.npy", array)
    return RunFolder.open(path)


def chosen(run: RunFolder, **criteria: Any) -> list[int]:
    if "range" in criteria:
        criteria["range"] = tuple((name, float(low), float(high)) for name, low, high in criteria["range"])
    return select(run, Criteria(**criteria)).index.tolist()


def where(condition: np.ndarray) -> list[int]:
    return np.flatnonzero(condition).tolist()


def lists(folder: Path, **numbers: list[int]) -> list[Path]:
    for name, values in numbers.items():
        (folder / f"{name}.txt").write_text("\n".join(map(str, values)))
    return [folder / f"{name}.txt" for name in numbers]


def test_labels(run):
    assert chosen(run, cluster=(3, 0)) == where((KMEANS == 3) | (KMEANS == 0))
    assert chosen(run, component=(2,)) == list(range(200, 300))
    assert chosen(run, state=(1,)) == where(STATES == 1)


def test_coordinates_are_named_from_1(run):
    z = run.latent_mean()
    assert chosen(run, range=(("z2", -0.5, 0.25),)) == where((z[:, 1] >= -0.5) & (z[:, 1] <= 0.25))
    assert chosen(run, range=(("umap2", 0, np.inf),)) == where(UMAP[:, 1] >= 0)
    assert chosen(run, range=(("volume-pc3", -np.inf, 0),)) == where(VOLUME[:, 2] <= 0)
    centred = z.astype(float) - z.mean(0, dtype=float)
    along = np.linalg.svd(centred, full_matrices=False)[2][0]
    side = where(centred @ along >= 0.3)
    assert chosen(run, range=(("pc1", 0.3, np.inf),)) in (side, where(centred @ along <= -0.3))


def test_ranges_make_a_box(run):
    box = (("umap1", -1, 1), ("umap2", 0, 1))
    assert chosen(run, range=box) == where((abs(UMAP[:, 0]) <= 1) & (UMAP[:, 1] >= 0) & (UMAP[:, 1] <= 1))


def test_an_end_is_included(run):
    edge = float(UMAP[7, 0])
    assert chosen(run, range=(("umap1", edge, edge),)) == [7]


def test_norm(run):
    norm = np.sqrt((run.latent_mean() ** 2).sum(1))
    assert chosen(run, max_norm=1.0) == where(norm <= 1)
    assert chosen(run, min_norm=1.0, max_norm=1.5) == where((norm >= 1) & (norm <= 1.5))


def test_nearest_to_a_particle_and_to_a_point(run):
    z = run.latent_mean().astype(float)
    order = np.argsort(((z - z[17]) ** 2).sum(1), kind="stable")
    found = chosen(run, nearest=10, to_particle=17)
    assert found == sorted(order[:10].tolist())
    assert 17 in found
    assert chosen(run, nearest=10, to_point=tuple(z[17].tolist())) == found
    assert chosen(run, nearest=N, to_particle=0) == list(range(N))


def test_a_lasso_in_a_plane_of_two_kinds(run, tmp_path):
    (tmp_path / "corners.txt").write_text("# x, y\n-1, -1\n1, -1\n\n0, 2\n")
    points = np.stack([UMAP[:, 1], run.latent_mean()[:, 0]], axis=1)
    expected = Polygon([[-1, -1], [1, -1], [0, 2]]).contains_points(points)
    assert 0 < expected.sum() < N
    assert chosen(run, lasso=tmp_path / "corners.txt", lasso_in=("umap2", "z1")) == where(expected)


@pytest.mark.parametrize(
    ("word", "pair"),
    [
        ("umap", ["umap1", "umap2"]),
        ("pca", ["pc1", "pc2"]),
        ("pc", ["pc1", "pc2"]),
        ("latent", ["z1", "z2"]),
        ("volume-pca", ["volume_pc1", "volume_pc2"]),
    ],
)
def test_a_kind_of_coordinate_means_its_first_two(run, word, pair):
    names, points = ParticleColumns.of(run).plane([word])
    assert names == pair
    np.testing.assert_array_equal(points, ParticleColumns.of(run).plane(pair)[1])


def test_sets(run, tmp_path):
    one, two = lists(tmp_path, one=[5, 1, 9, 1], two=[9, 12])
    criteria = {"index": (one, two), "cluster": (1,)}  # 1, 5, 9, 12 and 1, 6, 11 ...
    ones = set(where(KMEANS == 1))
    assert chosen(run, index=(one, two)) == [1, 5, 9, 12]
    assert chosen(run, **criteria) == [1]
    assert set(chosen(run, **criteria, any=True)) == ones | {1, 5, 9, 12}
    assert set(chosen(run, **criteria, any=True, invert=True)) == set(range(N)) - ones - {1, 5, 9, 12}
    assert chosen(run, index=(one,), minus=(two,)) == [1, 5]
    assert set(chosen(run, index=(one,), minus=(two,), invert=True)) == set(range(N)) - {1, 5, 9, 12}


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4))
def test_sets_obey_de_morgan(rows):
    sets = [np.array(row) for row in rows]
    assert combine(sets, complement=True).tolist() == combine([~s for s in sets], union=True).tolist()
    assert combine(sets, union=True, complement=True).tolist() == combine([~s for s in sets]).tolist()


def test_what_was_found_is_said(run):
    found = select(run, Criteria(cluster=(3,), component=(0,)))
    assert str(found) == "20 of 400 particles (5.0%): cluster 3: 80; component 0: 100"


def test_another_analysis_and_landscape(run, tmp_path):
    for name in ("kmeans_labels", "states"):
        np.save(tmp_path / f"{name}.npy", np.arange(N))
    assert chosen(run, cluster=(399,), analysis=tmp_path) == [399]
    assert chosen(run, state=(2,), landscape=tmp_path) == [2]


def test_a_polygon_that_crosses_itself_follows_the_even_odd_rule():
    """The middle of a five-pointed star drawn in one line is outside, its points are inside."""
    angle = np.arange(5) * 4 * np.pi / 5 + np.pi / 2
    star = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.array([[0.0, 0.0], [0.0, 0.8], [0.0, 1.1], [np.nan, 0.0]])
    assert inside(star, points).tolist() == [False, True, False, False]


def test_a_polygon_agrees_with_another_library():
    rng = np.random.default_rng(0)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 12))
    corners = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(0.4, 1, (12, 1))
    points = rng.uniform(-1, 1, (5000, 2))
    np.testing.assert_array_equal(inside(corners, points), Polygon(corners).contains_points(points))


@pytest.mark.parametrize(
    ("criteria", "said"),
    [
        ({"cluster": (5,)}, "kmeans_labels.npy: cluster 5 does not exist: there are 0, 1, 2, 3, 4"),
        ({"component": (-1,)}, "component -1 does not exist: there are 0, 1, 2, 3"),
        ({"state": (-1,)}, "state -1 does not exist: there are 0, 1"),
        ({"range": (("foo", 0, 1),)}, "has no column foo: it has z1, z2, z1_std, z2_std, norm, pc1"),
        ({"range": (("rlnDefocus", 0, 1),)}, "has no column rlnDefocus: did you mean rlnDefocusV or rlnDefocusU"),
        ({"range": (("rlnImageName", 0, 1),)}, "column rlnImageName of"),
        ({"where": "rlnDefocus > 1"}, "has no column rlnDefocus: did you mean rlnDefocusV or rlnDefocusU"),
        ({"where": "state = 1"}, "compare with == instead of ="),
        ({"range": (("z0", 0, 1),)}, "has no column z0: it has z1 to z2"),
        ({"range": (("pc3", 0, 1),)}, "has no column pc3: it has pc1 to pc2"),
        ({"range": (("volume-pc4", 0, 1),)}, "has no column volume-pc4: it has volume_pc1 to volume_pc3"),
        ({"nearest": 401, "to_particle": 0}, "nearest 401: the run has 400 particles"),
        ({"nearest": 4, "to_particle": 400}, "to-particle 400: the run has particles 0 to 399"),
        ({"nearest": 4, "to_point": (1.0,)}, "to-point has 1 numbers: expected 2"),
        ({"index": (Path("gone.txt"),)}, "gone.txt: no such file of particle numbers"),
    ],
)
def test_what_cannot_be_selected(run, criteria, said):
    with pytest.raises(InputError, match=re.escape(said)):
        chosen(run, **criteria)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("umap1", "umap1"), "lasso in umap1 umap1: expected two columns"),
        (("umap1",), "lasso in umap1: expected two columns"),
        (("pc1", "pc2", "pc3"), "expected two columns such as `pc1 pc2`, or one of z, pc, umap, volume_pc"),
        (("pc1", "tsne1"), "has no column tsne1: it has z1, z2"),
        (("umap1", "umap3"), "has no column umap3: it has umap1 to umap2"),
    ],
)
def test_planes_that_do_not_exist(run, tmp_path, names, said):
    (tmp_path / "corners.txt").write_text("0 0\n1 0\n0 1\n")
    with pytest.raises(InputError, match=re.escape(said)):
        chosen(run, lasso=tmp_path / "corners.txt", lasso_in=names)


@pytest.mark.parametrize(
    "content", ["0 0\n1 0\n", "0 0 0\n1 0 0\n0 1 0\n", "0 0\n1 nan\n0 1\n", "", "a b\n", "0 0\n1\n"]
)
def test_polygons_that_are_none(tmp_path, content):
    (tmp_path / "corners.txt").write_text(content)
    with pytest.raises(InputError, match=r"corners\.txt: (found shape|cannot be read as corners)"):
        read_polygon(tmp_path / "corners.txt")


def test_a_polygon_from_an_array_or_from_nowhere(tmp_path):
    np.save(tmp_path / "corners.npy", np.eye(3)[:, :2])
    assert read_polygon(tmp_path / "corners.npy").shape == (3, 2)
    np.save(tmp_path / "corners.npy", np.zeros(3, dtype=[("x", float), ("y", float)]))
    with pytest.raises(InputError, match=r"corners.npy: cannot be read as corners"):
        read_polygon(tmp_path / "corners.npy")
    with pytest.raises(InputError, match="no such file of a polygon's corners"):
        read_polygon(tmp_path / "gone.txt")


def test_a_run_without_latent_space_has_no_place_in_it(tiny_run, tmp_path):
    shutil.copytree(tiny_run.path, tmp_path / "run", symlinks=True)
    np.save(tmp_path / "run" / "latent_mean.npy", np.zeros((N, 0), np.float32))
    flat = RunFolder.open(tmp_path / "run")
    for criteria in (
        {"max_norm": 1.0},
        {"min_norm": 0.0},
        {"nearest": 3, "to_particle": 0},
        {"range": (("pc1", 0, 1),)},
    ):
        with pytest.raises(InputError, match=r"has no latent space \(zdim 0\)"):
            chosen(flat, **criteria)
    (tmp_path / "list.txt").write_text("7\n")
    assert chosen(flat, index=(tmp_path / "list.txt",)) == [7]


def test_a_run_without_analysis_says_what_makes_one(tiny_run):
    for criteria, command in (
        ({"cluster": (1,)}, "analyze"),
        ({"range": (("umap1", 0, 1),)}, "analyze"),
        ({"state": (0,)}, "landscape"),
        ({"range": (("volume-pc1", 0, 1),)}, "landscape"),
    ):
        with pytest.raises(InputError, match=rf"no such file; `cryomorph {command} {tiny_run.path}` makes it"):
            chosen(tiny_run, **criteria)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.arange(399), "has shape (399,), the run has 400 particles"),
        (np.zeros(400), "holds float64 of shape (400,): expected one whole number per particle"),
        (np.zeros((400, 2), int), "expected one whole number per particle"),
        (np.array(3), "has shape (), the run has 400 particles"),
    ],
)
def test_labels_of_another_run(run, tmp_path, content, said):
    np.save(tmp_path / "kmeans_labels.npy", content)
    with pytest.raises(InputError, match=re.escape(said)):
        chosen(run, cluster=(1,), analysis=tmp_path)
    (tmp_path / "kmeans_labels.npy").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be read"):
        chosen(run, cluster=(1,), analysis=tmp_path)
    np.savez(tmp_path / "several.npz", KMEANS)
    (tmp_path / "several.npz").replace(tmp_path / "kmeans_labels.npy")
    with pytest.raises(InputError, match=r"cannot be read \(it is an .npz, of several arrays\): `cryomorph analyze"):
        chosen(run, cluster=(1,), analysis=tmp_path)


@pytest.mark.parametrize(
    ("criteria", "said"),
    [
        (
            {"max_norm": -1.0},
            "is left where |z| up to -1 (each alone: |z| up to -1: 0): widen a criterion; nothing was",
        ),
        (
            {"cluster": (1,), "range": (("z1", 90.0, 99.0),)},
            "where cluster 1 and z1 from 90 to 99 (each alone: cluster 1: 80; z1 from 90 to 99: 0)",
        ),
        (
            {"cluster": (0, 1, 2, 3, 4), "invert": True},
            "where not (cluster 0 1 2 3 4) (each alone: cluster 0 1 2 3 4: 400",
        ),
    ],
)
def test_nothing_is_selected_but_never_written(run, tmp_path, criteria, said):
    found = select(run, Criteria(**criteria))
    assert len(found) == 0
    with pytest.raises(InputError, match=re.escape(said)):
        found.save(tmp_path / "none.txt")
    assert not (tmp_path / "none.txt").exists()


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("coordinates", np.zeros((400, 2, 2)), "float64 of shape (400, 2, 2): expected finite coordinates"),
        ("curve", np.zeros((400, 2)), "float64 of shape (400, 2): expected one finite number per particle"),
        ("states", np.zeros(400), "float64 of shape (400,): expected one whole number per particle"),
    ],
)
def test_arrays_that_are_no_column(run, tmp_path, name, array, said):
    np.save(tmp_path / f"{name}.npy", array)
    column = {"coordinates": "volume_pc1", "curve": "curve", "states": "state"}[name]
    with pytest.raises(InputError, match=re.escape(said)):
        select(run, Criteria(where=f"{column} > 0", landscape=tmp_path))


def test_many_labels_are_not_all_listed():
    with pytest.raises(InputError, match=r"28, 29 and more$"):
        with_label(np.arange(500), [500], "cluster")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "nothing says which particles to select: give one or more of where, cluster"),
        ({"minus": (Path("a.txt"),)}, "nothing says which particles"),
        ({"cluster": (1,), "output": Path("o.csv")}, "o.csv: expected a name that ends in .star, .cs, .txt, .npy"),
        ({"nearest": 3}, "nearest (how many) goes with either to-particle or to-point"),
        ({"nearest": 3, "to_particle": 1, "to_point": (0.0,)}, "nearest (how many) goes with either"),
        ({"cluster": (1,), "to_particle": 1}, "nearest (how many) goes with either"),
        ({"nearest": 0, "to_particle": 1}, "nearest 0: expected 1 or more"),
        ({"range": (("z1", 2.0, 1.0),)}, "range z1 2 1: expected the lower end first"),
        ({"range": (("z1", np.nan, 1.0),)}, "expected the lower end first"),
    ],
)
def test_configs_that_make_no_sense(options, said):
    with pytest.raises(InputError, match=re.escape(said)):
        output = options.get("output", Path("o.txt"))
        SelectConfig(Path("run"), output, Criteria(**{k: v for k, v in options.items() if k != "output"}))


def test_numbers_are_read_back_by_all_who_read_them(tmp_path):
    from cryomorph.io.numbers import read_index

    for name in ("a.txt", "a.npy"):
        write_numbers(tmp_path / name, np.array([3, 5]), "0-based particle numbers of run")
        assert read_index(tmp_path / name).tolist() == [3, 5]
        assert read_particle_numbers(tmp_path / name, 6).tolist() == [3, 5]
