"""`analyze` end to end: every table and map that it promises, and a report that holds them."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.analysis import run_analysis
from cryomorph.analysis.latent_space import latent_space
from cryomorph.commands import analyze as module
from cryomorph.commands.analyze import analyze, consensus_resolution_A
from cryomorph.config.analyze import AnalyzeConfig
from cryomorph.config.errors import InputError
from cryomorph.io.mrc import read_map, write_map
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import mirror

TABLES = {"pca.npy", "kmeans_labels.npy", "kmeans_centres.txt", "outliers.txt", "gmm_labels.npy", "gmm_probability.npy"}


@pytest.fixture(scope="module", autouse=True)
def small_pictures() -> Iterator[None]:
    """Pictures as small as stamps: drawing them takes most of a tiny run's analysis."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryomorph.render.map_renderer.SIZE", 40)
        yield


@pytest.fixture(scope="module")
def config(tiny_run, tmp_path_factory: pytest.TempPathFactory) -> AnalyzeConfig:
    output = tmp_path_factory.mktemp("analysis") / "deep" / "out"
    return AnalyzeConfig(tiny_run.path, output, clusters=4, gmm=2, pcs=1, pc_points=3, umap=False)


@pytest.fixture(scope="module")
def analysed(config) -> Path:
    assert analyze(config) == config.output / "report.html"
    assert config.output is not None
    return config.output


def maps(folder: Path) -> list[np.ndarray]:
    return [read_map(path)[0] for path in sorted(folder.glob("*.mrc"))]


def test_every_table_and_map_is_there(analysed, tiny_run):
    assert {path.name for path in analysed.iterdir()} == TABLES | {
        "report.html",
        "kmeans",
        "kmeans_reconstructed",
        "pc1",
        "gmm",
    }
    counts = {name: len(maps(analysed / name)) for name in ("kmeans", "kmeans_reconstructed", "pc1", "gmm")}
    assert counts == {"kmeans": 4, "kmeans_reconstructed": 4, "pc1": 3, "gmm": 2}
    assert not (tiny_run.path / "analysis").exists()


def test_tables_have_a_row_for_each_particle(analysed):
    labels, projected = (np.load(analysed / f"{name}.npy", allow_pickle=False) for name in ("kmeans_labels", "pca"))
    assert labels.shape == (400,)
    assert set(labels.tolist()) == {0, 1, 2, 3}
    assert projected.shape == (400, 2)
    probability = np.load(analysed / "gmm_probability.npy", allow_pickle=False)
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-6)
    centres = np.loadtxt(analysed / "kmeans_centres.txt", dtype=int)
    np.testing.assert_array_equal(labels[centres], [0, 1, 2, 3])


def test_cluster_maps_are_the_model_s_at_the_centres(analysed, tiny_run):
    centres = np.loadtxt(analysed / "kmeans_centres.txt", dtype=int)
    mean, *components = tiny_run.representation().maps.numpy()
    for number, found in zip(centres, maps(analysed / "kmeans"), strict=True):
        z = tiny_run.latent_mean()[number]
        np.testing.assert_allclose(found, mean + np.tensordot(z, np.stack(components), 1), atol=1e-4)
    assert read_map(analysed / "kmeans" / "000000.mrc")[1] == pytest.approx(16.0)


def test_report_is_one_file_that_says_where_it_came_from(analysed):
    page = (analysed / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "") and 'src="http' not in page
    for said in ("400", "16.000", "linear", "k-means", "Libraries"):
        assert said in page


def test_analysis_again_replaces_what_was_there(config, analysed, tmp_path):
    shutil.copytree(analysed, tmp_path / "out")
    fewer = replace(config, output=tmp_path / "out", clusters=2, reconstruct=False, gmm=0, flip_hand=True)
    analyze(fewer)
    assert len(maps(tmp_path / "out" / "kmeans")) == 2
    # what the model makes of a point, mirrored
    number = np.loadtxt(tmp_path / "out" / "kmeans_centres.txt", dtype=int)[0]
    run = RunFolder.open(config.run)
    z = run.latent_mean()[number]
    tensors = run.representation().maps
    plain = tensors[0] + z[0].item() * tensors[1] + z[1].item() * tensors[2]
    np.testing.assert_allclose(maps(tmp_path / "out" / "kmeans")[0], mirror(plain).numpy(), atol=1e-4)


def test_the_same_seed_gives_the_same_tables(config, analysed, tmp_path):
    analyze(replace(config, output=tmp_path, reconstruct=False, pcs=0))
    for name in sorted(TABLES):
        assert (tmp_path / name).read_bytes() == (analysed / name).read_bytes(), name


def test_maps_of_another_box(config, tmp_path):
    analyze(replace(config, output=tmp_path, reconstruct=False, pcs=0, gmm=0, clusters=2, box=24))
    data, pixel_A = read_map(tmp_path / "kmeans" / "000000.mrc")
    assert data.shape == (24, 24, 24)
    assert pixel_A == pytest.approx(16 * 16 / 24)


def test_umap_is_asked_for_only_where_it_can_be_made(config, tiny_run, monkeypatch, capsys):
    asked: list[dict[str, object]] = []

    class Pretended:
        def result(self) -> np.ndarray:
            return np.ones((400, 2), np.float32)

    @contextmanager
    def pretend(z: np.ndarray, **options: object) -> Iterator[Pretended]:
        asked.append(options)
        yield Pretended()

    monkeypatch.setattr(run_analysis, "umap_process", pretend)
    z = tiny_run.latent_mean()
    with run_analysis.umap_in_background(z, replace(config, umap=True, umap_neighbours=7, seed=3)) as embedding:
        np.testing.assert_array_equal(embedding(), np.ones((400, 2)))
    assert asked == [{"neighbours": 7, "min_distance": 0.1, "seed": 3}]
    for points, umap in ((z, False), (z[:, :1], True), (z[:9], True)):
        with run_analysis.umap_in_background(points, replace(config, umap=umap)) as embedding:
            assert embedding() is None
    assert len(asked) == 1
    assert "".join(capsys.readouterr()).count("9 particles are too few for UMAP") == 1


def test_umap_is_written_and_shown(config, tmp_path):
    asked = replace(config, output=tmp_path / "out", umap=True, reconstruct=False, pcs=0, gmm=0, clusters=2)
    page = analyze(asked).read_text()
    found = np.load(tmp_path / "out" / "umap.npy")
    assert found.shape == (400, 2) and found.dtype == np.float32 and np.isfinite(found).all()
    assert page.count("UMAP plane") >= 2


def test_files_of_others_are_not_an_analysis(config, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no analysis"):
        analyze(replace(config, output=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_relative_std_is_a_share_of_the_prior(tiny_run, config):
    space = latent_space(tiny_run, config)
    share = space.relative_std
    total = space.z.var(0) + (space.std**2).mean(0)
    np.testing.assert_allclose(share**2, space.std**2 / total, rtol=1e-4)
    assert (share < 1).mean() > 0.9


def test_resolution_is_that_of_the_log(tiny_run):
    told = next(line for line in (tiny_run.path / "run.log").read_text().splitlines() if "consensus:" in line)
    resolution = consensus_resolution_A(tiny_run)
    better = " or better (Nyquist)" if resolution <= 32 else ""
    assert f"{resolution:.2f} A{better} at FSC 0.143" in told


def test_steps_done_twice_are_told_once(config, tiny_run, tmp_path, monkeypatch):
    """A run resumed in its last stage has rows of the same step twice: the report's curve has them once."""
    shutil.copytree(tiny_run.path, tmp_path / "run")
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join([*rows[:-2], *rows[-4:]]) + "\n")
    seen: list[np.ndarray] = []
    real = module.latent_section
    monkeypatch.setattr(module, "latent_section", lambda *a, **k: (seen.append(k["objective"]), real(*a, **k))[1])
    analyze(replace(config, run=tmp_path / "run", output=tmp_path / "out", reconstruct=False, pcs=0, gmm=0, clusters=2))
    np.testing.assert_array_equal(seen[0], [-json.loads(row)["log_likelihood"] for row in rows[-4:]])


def made_up_landscape(run: RunFolder) -> None:
    """A landscape of two states, whose maps are the model's at the first and the last particle."""
    folder = run.path / "landscape"
    (folder / "states").mkdir(parents=True)
    np.save(folder / "states.npy", (run.latent_mean()[:, 0] > 0).astype(np.int64))
    model = run.representation()
    for state, row in enumerate((0, -1)):
        volume = model.volume(torch.from_numpy(run.latent_mean()[row]), 16)
        write_map(folder / "states" / f"state_{state}.mrc", volume.numpy(), 16.0)
    facts = {"particles": 400, "pixel_A": 16.0, "r2": 0.995, "held_out_maps": 64, "options": {"flip_hand": False},
             "suggested": {"states": 2, "clear": True}, "states": [{"maps": 7}, {"maps": 5}]}  # fmt: skip
    (folder / "landscape.json").write_text(json.dumps(facts))


def test_states_of_a_landscape_are_in_the_report(config, tiny_run, tmp_path):
    shutil.copytree(tiny_run.path, tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    made_up_landscape(run)
    asked = replace(config, run=run.path, output=tmp_path / "out", pcs=0, gmm=0, clusters=2)
    page = analyze(asked).read_text()
    assert page.index('id="how-far-to-trust-it"') < page.index('id="consensus"') < page.index('id="states"')
    assert "0.9950 (64 maps)" in page and "no landscape yet" not in page
    states = np.load(run.path / "landscape" / "states.npy")
    with (tmp_path / "out" / "states.csv").open() as file:
        assert [int(row["particles"]) for row in csv.DictReader(file)] == np.bincount(states).tolist()
    assert len(maps(tmp_path / "out" / "states_reconstructed")) == 2
    # a model that is newer: the landscape is not used, and the report says so
    os.utime(run.path / "landscape" / "landscape.json", (1, 1))
    page = analyze(replace(asked, output=tmp_path / "again", reconstruct=False)).read_text()
    assert 'id="states"' not in page and "is older than the model and was not used" in page
    assert not (tmp_path / "again" / "states.csv").exists()


def test_without_a_landscape_the_report_says_how_to_get_one(analysed, tiny_run):
    page = (analysed / "report.html").read_text()
    assert 'id="states"' not in page
    assert f"<code>cryomorph landscape {tiny_run.path}</code>" in page
    panel = page[page.index('id="how-far-to-trust-it"') : page.index('id="consensus"')]
    # one question is a second run's, one a training's by epochs
    assert panel.count('class="mark missing"') == 2
    for asked in ("between half sets", "Scale of the maps", "Viewing direction", "the clusters", "Smallest cluster"):
        assert asked in panel
