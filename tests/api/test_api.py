"""The Python API: what the front page promises, line by line, against the files of a run and plain numpy."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import cryomorph as cm
from cryomorph.io.mrc import read_map
from cryomorph.io.star import read_star
from cryomorph.particles.subset import ParticleFile
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import reconstruct
from cryomorph.volumes.fsc import fsc, resolution_A

N = 400
CLUSTERS, STATES = np.arange(N) % 4, np.arange(N) % 3 - 1
CURVE = np.linspace(-2, 2, N).astype(np.float32)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def folder(tiny_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run with results of an analysis and a landscape, made up."""
    path = tmp_path_factory.mktemp("api") / "run"
    shutil.copytree(tiny_run.path, path)
    rng = np.random.default_rng(0)
    for name, arrays in {
        "analysis": {"kmeans_labels": CLUSTERS, "gmm_labels": CLUSTERS // 2, "umap": rng.normal(size=(N, 2))},
        "landscape": {"states": STATES, "coordinates": rng.normal(size=(N, 3)), "curve": CURVE},
    }.items():
        (path / name).mkdir()
        for file, array in arrays.items():
            np.save(path / name / f"{file}.npy", array)
    (path / "analysis" / "outliers.txt").write_text("# 0-based particle numbers\n7\n3\n")
    np.save(path / "contrast.npy", np.ones(N, np.float32))
    return path


@pytest.fixture(scope="module")
def run(folder: Path) -> cm.Run:
    return cm.load(str(folder))


def test_the_front_page(run, tmp_path):
    map = run.decode(run.latents[12])
    assert map.save(tmp_path / "a.mrc") == tmp_path / "a.mrc"
    rare = run.select("state == 1")
    rare.save(tmp_path / "rare.star")
    half = run.reconstruct(rare)
    agreement = cm.fsc(map, half.map)
    curve = fsc(torch.tensor(map.array), torch.tensor(half.map.array))
    assert agreement.resolution_A == pytest.approx(resolution_A(curve, 16.0))
    assert len(rare) == (STATES == 1).sum()


# --- what is known of particles ---------------------------------------------------------------------------------------


def test_particles_hold_all_metadata_and_all_results(run, tiny_set):
    table, blocks = run.particles, read_star(tiny_set / "particles.star")
    assert isinstance(table, pd.DataFrame) and len(table) == N and run.particles is table
    results = "z1 z2 z1_std z2_std norm contrast pc1 pc2 umap1 umap2 cluster mixture outlier state curve volume_pc1"
    assert set(results.split()) < set(table.columns)
    for name, tokens in blocks["particles"].items():
        if name in ("rlnImageName", "rlnMicrographName"):
            assert table[name].tolist() == tokens.tolist()
        else:
            np.testing.assert_array_equal(table[name], tokens.astype(float))
    assert table["rlnVoltage"].unique().tolist() == [300.0]  # of the optics group
    assert table["rlnOpticsGroup"].dtype == np.int64
    np.testing.assert_array_equal(table[["z1", "z2"]], run.latents)
    np.testing.assert_array_equal(table["z2_std"], run.latents_std[:, 1])
    np.testing.assert_allclose(table["norm"], np.sqrt((run.latents**2).sum(1)), rtol=1e-6)
    centred = run.latents - run.latents.mean(0, dtype=float)
    np.testing.assert_allclose(table["pc1"].abs(), abs(centred @ np.linalg.svd(centred)[2][0]), atol=1e-5)
    np.testing.assert_array_equal(table["cluster"], CLUSTERS)
    np.testing.assert_array_equal(table["mixture"], CLUSTERS // 2)
    np.testing.assert_array_equal(table["state"], STATES)
    np.testing.assert_array_equal(table["curve"], CURVE)
    assert np.flatnonzero(table["outlier"]).tolist() == [3, 7]
    np.testing.assert_array_equal(table["half_set"], np.load(run.path / "particles" / "half.npy") + 1)


def test_results_that_are_not_there_or_damaged_are_left_out(tiny_run, tmp_path, capsys):
    shutil.copytree(tiny_run.path, tmp_path / "run")
    (tmp_path / "run" / "analysis").mkdir()
    np.save(tmp_path / "run" / "analysis" / "kmeans_labels.npy", CLUSTERS[:-1])
    (tmp_path / "run" / "analysis" / "outliers.txt").write_text("# 0-based particle numbers\n")
    table = cm.load(tmp_path / "run").particles
    assert not {"cluster", "state", "umap1", "contrast"} & set(table.columns)
    assert not table["outlier"].any()
    assert "cluster is left out: " in capsys.readouterr().err


def test_columns_of_cryosparc_particles(tmp_path):
    from cryomorph.analysis.metadata_columns import metadata_columns

    array = np.zeros(3, [("uid", "<u8"), ("blob/path", "S9"), ("ctf/df1_A", "<f4"), ("alignments3D/pose", "<f4", (3,))])
    array["uid"], array["blob/path"] = [2**64 - 1, 5, 6], b">J1/a.mrc"
    array["alignments3D/pose"] = np.arange(9).reshape(3, 3)
    np.save(tmp_path / "p.npy", array)
    (tmp_path / "p.npy").rename(tmp_path / "p.cs")
    columns = {name: read() for name, read in metadata_columns(ParticleFile.open(tmp_path / "p.cs")).items()}
    pose = [f"alignments3D/pose[{axis}]" for axis in range(3)]
    assert list(columns) == ["uid", "blob/path", "ctf/df1_A", *pose]
    assert columns["uid"].tolist() == [2**64 - 1, 5, 6]
    assert columns["blob/path"].tolist() == [">J1/a.mrc"] * 3
    assert columns[pose[1]].tolist() == [1, 4, 7]


# --- maps -------------------------------------------------------------------------------------------------------------


def test_decode_one_point_or_many(run):
    one, many = run.decode(run.latents[12]), run.decode(run.latents[[12, 5]])
    expected = RunFolder.open(run.path).representation().volume(torch.tensor(run.latents[12]), 16).detach()
    assert isinstance(one, cm.Map) and isinstance(many, list) and len(many) == 2
    np.testing.assert_allclose(one.array, expected, atol=1e-5)
    np.testing.assert_array_equal(one.array, many[0].array)
    assert one.pixel_A == 16.0 and one.box == 16
    large = run.decode([0.0, 0.0], box=24)
    assert large.box == 24 and large.pixel_A == pytest.approx(16 * 16 / 24)


@pytest.mark.parametrize(("point", "options"), [([1.0], {}), ([[1.0]], {}), ([np.nan, 1], {}), ([0, 0], {"box": 7})])
def test_points_that_cannot_be_decoded(run, point, options):
    with pytest.raises(cm.InputError, match=r"latent points of shape|expected an even number"):
        run.decode(point, **options)


def test_a_map_is_its_array_and_survives_its_file(run, tmp_path):
    map = run.decode([0.1, 0.2])
    map.save(tmp_path / "a.mrc")
    array, pixel_A = read_map(tmp_path / "a.mrc")
    np.testing.assert_array_equal(array, np.asarray(map))
    loaded = cm.Map.load(tmp_path / "a.mrc")
    np.testing.assert_array_equal(loaded.array, map.array)
    assert loaded.pixel_A == pixel_A == 16.0
    assert cm.Map.load(tmp_path / "a.mrc", pixel_A=2.0).pixel_A == 2.0
    with pytest.raises(cm.InputError, match="exists already"):
        map.save(tmp_path / "a.mrc")
    map.save(tmp_path / "a.mrc", overwrite=True)
    with pytest.raises(ValueError, match="read-only"):
        map.array[0] = 1
    with pytest.raises(AttributeError):
        map.pixel_A = 3.0


@pytest.mark.parametrize(("shape", "pixel_A"), [((4, 4), 1.0), ((4, 4, 5), 1.0), ((4, 4, 4), 0.0)])
def test_arrays_that_are_no_map(shape, pixel_A):
    with pytest.raises(cm.InputError, match="expected"):
        cm.Map(np.zeros(shape, np.float32), pixel_A)


def test_fsc_of_maps_and_files(run, tmp_path):
    half = run.reconstruct(run.select(np.arange(N)))
    half.save(tmp_path / "maps")
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == [
        "fsc.csv",
        "half1.mrc",
        "half2.mrc",
        "map.mrc",
        "mask.mrc",
    ]
    with pytest.raises(cm.InputError, match="exists already"):
        half.save(tmp_path / "maps")
    again = cm.fsc(*(tmp_path / "maps" / f"{name}.mrc" for name in ("half1", "half2", "mask")))
    np.testing.assert_allclose(again.curve, half.fsc.curve, atol=1e-5)
    assert again.resolution_A == pytest.approx(half.resolution_A)
    assert again.frequency[-1] == pytest.approx(7 / (16 * 16))
    assert cm.fsc(half.map, half.map).resolution_A == 2 * 16.0  # Nyquist
    with pytest.raises(cm.InputError, match="maps of 16 voxels of 16 A and of 24 of"):
        cm.fsc(half.map, run.decode([0, 0], box=24))


def test_reconstruct_a_selection_and_near_points(run):
    rare = run.select("cluster == 2")
    half = run.reconstruct(rare)
    direct = reconstruct(RunFolder.open(run.path).store(), subset=torch.from_numpy(np.flatnonzero(CLUSTERS == 2)))
    for name in ("map", "half1", "half2", "mask"):
        np.testing.assert_array_equal(getattr(half, name).array, getattr(direct, name))
    assert half.resolution_A == direct.fsc.resolution_0143_A
    near = run.reconstruct(run.latents[:2])
    assert [type(map) for map in near] == [cm.Map, cm.Map]
    np.testing.assert_array_equal(run.reconstruct(run.latents[0]).array, near[0].array)
    first = np.flatnonzero(np.load(run.path / "particles" / "half.npy") == 0)
    with pytest.raises(cm.InputError, match="half maps need both"):
        run.reconstruct(run.select(first))


# --- selections -------------------------------------------------------------------------------------------------------


def test_select_is_the_command(run, tmp_path):
    from cryomorph.cli.main import main

    text = "state == 1 and rlnDefocusU > 12000 or z1 > 0.5"
    rare = run.select(text)
    table = run.particles
    expected = np.flatnonzero((table.state == 1) & (table.rlnDefocusU > 12000) | (table.z1 > 0.5))
    assert rare.index.tolist() == expected.tolist() == list(rare) and rare.index.dtype == np.int64
    rare.save(tmp_path / "api.star")
    assert main(["select", str(run.path), "--where", text, "-o", str(tmp_path / "cli.star")]) == 0
    for suffix in ("star", "txt"):
        assert (tmp_path / f"api.{suffix}").read_bytes() == (tmp_path / f"cli.{suffix}").read_bytes()
    before, after = read_star(run.path / "particles.star"), read_star(tmp_path / "api.star")
    assert after["particles"].equals(before["particles"].iloc[expected].reset_index(drop=True))


@pytest.mark.parametrize("suffix", ["txt", "npy"])
def test_numbers_alone(run, tmp_path, suffix):
    run.select([9, 3, 3]).save(tmp_path / f"a.{suffix}")
    found = np.loadtxt(tmp_path / "a.txt", dtype=int) if suffix == "txt" else np.load(tmp_path / "a.npy")
    assert found.tolist() == [3, 9]


def test_selections_are_sets(run):
    a, b = run.select("state == 1"), run.select("cluster in [0, 1]")
    ours, theirs, everything = set(a), set(b), set(range(N))
    assert set(a & b) == ours & theirs and set(a | b) == ours | theirs
    assert set(a - b) == ours - theirs and set(~a) == everything - ours
    assert set(~(a & b)) == set(~a | ~b)
    assert len(a & ~a) == 0 and 5 in a and 4 not in a
    assert (a & b).name == "(state == 1) and (cluster in [0, 1])"
    assert a.mask.sum() == len(a)


def test_selections_of_two_runs_do_not_mix(run, tiny_run):
    other = cm.load(tiny_run.path)
    with pytest.raises(cm.InputError, match="selections of two runs"):
        run.select("z1 > 0") & other.select("z1 > 0")
    with pytest.raises(cm.InputError, match="the selection is of"):
        other.reconstruct(run.select("z1 > 0"))
    with pytest.raises(TypeError):
        run.select("z1 > 0") & {1, 2}


def test_what_select_takes(run, tmp_path):
    nearest = run.select(nearest=10, to_particle=17)
    assert len(nearest) == 10 and 17 in nearest
    assert set(run.select("z1 > 0", cluster=[1])) == set(run.select("z1 > 0")) & set(run.select("cluster == 1"))
    assert set(run.select(CLUSTERS == 3)) == set(run.select("cluster == 3"))
    assert set(run.select([5, 6, 7], cluster=[1])) == {5}
    assert len(run.select("z1 > 100")) == len(run.select([])) == 0
    for given, said in (
        (lambda: run.select("cluste == 1"), r"has no column cluste: did you mean cluster"),
        (lambda: run.select(clusters=[1]), r"select has no option clusters: did you mean cluster\?"),
        (lambda: run.select(), "nothing says which particles"),
        (lambda: run.select([400]), "particle 400: the run has particles 0 to 399"),
        (lambda: run.select([-1]), "particle -1: the run has particles 0 to 399"),
        (lambda: run.select(np.ones(3, bool)), "a mask of 3 particles: the run has 400"),
        (lambda: run.select([0.5]), "particles given as float64"),
        (lambda: run.select("z1 > 100").save(tmp_path / "a.txt"), "no particle of .* is left where z1 > 100"),
        (lambda: run.select("z1 > 0").save(tmp_path / "a.csv"), "expected a name that ends in .star"),
    ):
        with pytest.raises(cm.InputError, match=said):
            given()


@pytest.mark.parametrize(
    "text",
    ["z1.__class__ == 1", "__import__('os').system('true') == 0", "(lambda: 1)()", "[x for x in z1]", "f'{z1}' == ''"],
)
def test_expressions_can_only_look(run, text):
    with pytest.raises(cm.InputError):
        run.select(text)
    assert len(run.select("z1 < 9**9**9")) == N


# --- training, back-projection, simulation ----------------------------------------------------------------------------


def test_simulate_train_and_analyze(tmp_path):
    made = cm.simulate("uniform", output=tmp_path / "set", n=60, box=16, pixel_A=16.0, snr=1.0)
    fit = {"zdim": 1, "iterations": 1, "final_iterations": 1, "max_radius": 6, "box": 14}
    run = cm.train("linear", made / "particles.star", output=str(tmp_path / "run"), **fit)
    assert isinstance(run, cm.Run) and run.method == "linear" and run.box == 14 and len(run) == 60
    assert run.latents.shape == (60, 1) and run.config["images"]["box"] == 14
    assert "cluster" not in run.particles
    assert run.decode(0.5).array.shape == (14, 14, 14)
    assert len(run.decode([0.5, 0.6, 0.7])) == 3
    with pytest.raises(cm.InputError, match="--resume goes on with it"):
        cm.train("linear", made / "particles.star", output=tmp_path / "run", **fit)
    half = cm.backproject(made / "particles.star", box=14)
    np.testing.assert_array_equal(half.map.array, cm.Map.load(run.path / "consensus" / "map.mrc").array)
    assert np.corrcoef(half.map.array.ravel(), run.consensus.array.ravel())[0, 1] > 0.9  # at the corrected poses
    cm.backproject(made / "particles.star", output=tmp_path / "maps", box=14)
    np.testing.assert_array_equal(cm.Map.load(tmp_path / "maps" / "map.mrc").array, half.map.array)


def test_analyze_and_landscape_are_the_commands(tiny_run, tmp_path, monkeypatch):
    """The commands themselves are tested where they are; here they only leave a result behind."""
    from cryomorph.commands import analyze, landscape

    shutil.copytree(tiny_run.path, tmp_path / "run")
    run, asked = cm.load(tmp_path / "run"), []

    def leaves(folder, name, labels):
        def command(config):
            asked.append(config)
            (run.path / folder).mkdir()
            np.save(run.path / folder / name, labels)
            return run.path / folder / "report.html"

        return command

    monkeypatch.setattr(analyze, "analyze", leaves("analysis", "kmeans_labels.npy", CLUSTERS))
    monkeypatch.setattr(landscape, "landscape", leaves("landscape", "states.npy", STATES))
    assert "cluster" not in run.particles
    assert run.analyze(clusters=4, umap=False) == run.path / "analysis" / "report.html"
    assert run.landscape(states=2) == run.path / "landscape" / "report.html"
    assert [config.run for config in asked] == [run.path, run.path]
    assert (asked[0].clusters, asked[0].umap, asked[1].states) == (4, False, 2)
    np.testing.assert_array_equal(run.particles[["cluster", "state"]], np.stack([CLUSTERS, STATES], 1))


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("lineer", {}, "unknown method 'lineer': did you mean linear?"),
        ("x", {}, "unknown method 'x': expected one of linear, conv-volume, gaussians, neural-field"),
        ("linear", {"zdims": 3}, "train('linear') has no option zdims: did you mean zdim?"),
        ("linear", {"qqq": 3}, "train('linear') has no option qqq: expected one of particles, output, zdim"),
        ("linear", {"zdim": "many"}, "train('linear'): zdim: input should be a valid integer"),
        ("neural-field", {"epoch": 3}, "has no option epoch: did you mean epochs?"),
        ("neural-field", {"optimiser": "sgd"}, "optimiser: input should be 'muon' or 'adam', found 'sgd'"),
        ("linear", {"zdim": 2}, "gone.star: no such particle file or store"),
    ],
)
def test_what_train_refuses_in_one_sentence(tmp_path, method, options, said):
    with pytest.raises(cm.InputError, match=re.escape(said)):
        cm.train(method, "gone.star", output=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_options_of_parts_and_of_another_run(tmp_path):
    from cryomorph.api.training import training_config

    config = training_config(
        "neural-field", {"particles": "p.star", "output": "o", "epochs": 2, "width": 64, "network": "plain", "box": 32}
    )
    assert (config.training.epochs, config.network.width, config.network.network, config.images.box) == (
        2,
        64,
        "plain",
        32,
    )
    assert config.particles == Path("p.star")
    (tmp_path / "config.json").write_text(
        '{"method": "neural-field", "particles": "p.star", "training": {"epochs": 2}}'
    )
    again = {"particles": "q.star", "output": "o", "config": tmp_path / "config.json", "batch_size": 4}
    copied = training_config("neural-field", again)
    assert (copied.training.epochs, copied.training.batch_size, copied.particles) == (2, 4, Path("q.star"))


# --- notebooks, imports -----------------------------------------------------------------------------------------------


def test_pictures_and_tables_for_notebooks(run):
    half = run.reconstruct(run.select("z1 > 0"))
    for shown in (run.consensus, half, half.fsc):
        assert shown._repr_png_().startswith(PNG) and repr(shown).startswith("<")
    for shown, word in ((run, "linear"), (run.select("z1 > 0"), "z1 &gt; 0")):
        html = shown._repr_html_()
        assert html.startswith("<table>") and html.endswith("</table>") and word in html
        assert repr(shown).startswith("<")
    assert half.fsc.plot().axes


def test_slices_stand_upright():
    """A blob at +x, +y, +z: to the right of the middle and above it in all three slices."""
    from cryomorph.render.slices import GAP, central_slices

    volume = np.zeros((16, 16, 16), np.float32)
    volume[8, 11:13, 11:13] = volume[11:13, 8, 11:13] = volume[11:13, 11:13, 8] = 1
    picture = central_slices(volume, size=64)
    assert picture.shape == (64, 3 * 64 + 2 * GAP)
    for start in (0, 64 + GAP, 2 * (64 + GAP)):
        row, column = np.unravel_index(picture[:, start : start + 64].argmax(), (64, 64))
        assert row < 28 and column > 36


def test_importing_costs_next_to_nothing():
    script = (
        "import sys, cryomorph as cm; print(*[m for m in ('torch', 'pandas', 'numpy', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_what_is_offered():
    assert set(cm.__all__) <= set(dir(cm))
    assert all(getattr(cm, name) is not None for name in cm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cm.nothing  # noqa: B018
    assert files("cryomorph").joinpath("py.typed").is_file()
