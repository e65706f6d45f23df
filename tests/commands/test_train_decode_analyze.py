"""`train linear`, `decode`, `analyze` and `demo` as typed: what they leave, and every refusal in one sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from cryomorph.cli.main import main
from cryomorph.io.mrc import read_map
from cryomorph.runs.folder import RunFolder


def refused(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with 2 and one sentence on standard error."""
    capsys.readouterr()
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(said, error), error


def maps(folder: Path) -> list[np.ndarray]:
    return [read_map(path)[0] for path in sorted(folder.glob("*.mrc"))]


@pytest.fixture(scope="module")
def run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    star = str(tiny_set / "particles.star")
    fit = ["--zdim", "2", "--iterations", "2", "--seed", "1", "--fix-poses", "--no-contrast"]
    assert main(["train", "linear", star, "-o", str(folder), *fit]) == 0
    return folder


def test_train_makes_the_run_that_the_function_makes(run, tiny_run):
    np.testing.assert_array_equal(RunFolder.open(run).latent_mean(), tiny_run.latent_mean())


def test_train_says_what_comes_next(tiny_set, tmp_path, capsys):
    argv = ["train", "linear", str(tiny_set / "particles.star"), "-o", str(tmp_path / "run"), "--zdim", "1"]
    assert main([*argv, "--iterations", "1", "--final-iterations", "1", "--max-radius", "6"]) == 0
    said = "".join(capsys.readouterr())
    for part in ("particles: 400 images", "consensus:", "half sets agree on", "next: cryomorph analyze"):
        assert part in said


def test_train_refuses(tiny_set, run, tmp_path, capsys):
    star, out = str(tiny_set / "particles.star"), str(tmp_path / "new")
    refused(["train", "linear", star, "-o", out, "--zdim", "0"], "--zdim 0: expected 1 to 20", capsys)
    refused(["train", "linear", star, "-o", out, "--recipe", "paper"], "the method linear has only default", capsys)
    refused(["train", "linear", "gone.star", "-o", out], r"gone\.star: no such particle file or store", capsys)
    refused(["train", "linear", star, "-o", out, "--resume"], "holds no run to resume", capsys)
    refused(["train", "linear", star, "-o", out, "--box", "15"], "--box 15: expected an even number", capsys)
    refused(["train", "linear", star, "-o", str(run)], "holds a run: --resume goes on with it", capsys)
    refused(["train", "linear", star, "-o", str(tiny_set)], "is not empty and holds no run", capsys)
    assert not Path(out).exists()


def test_decode_of_particles_in_the_order_asked_for(run, tmp_path):
    (tmp_path / "index.txt").write_text("7\n3\n7\n")
    assert main(["decode", str(run), "-o", str(tmp_path / "maps"), "--particles", str(tmp_path / "index.txt")]) == 0
    found = maps(tmp_path / "maps")
    mean, one, two = RunFolder.open(run).representation().maps.numpy()
    for number, volume in zip((7, 3, 7), found, strict=True):
        a, b = RunFolder.open(run).latent_mean()[number]
        np.testing.assert_allclose(volume, mean + a * one + b * two, atol=1e-4)


def test_decode_of_latent_points_in_another_box(run, tmp_path):
    np.save(tmp_path / "z.npy", np.zeros((1, 2)))
    argv = ["decode", str(run), "-o", str(tmp_path / "maps"), "--z", str(tmp_path / "z.npy"), "--box", "24"]
    assert main(argv) == 0
    data, pixel_A = read_map(tmp_path / "maps" / "000000.mrc")
    assert data.shape == (24, 24, 24)
    assert pixel_A == pytest.approx(16 * 16 / 24)
    assert main([*argv[:-2], "--overwrite", "--flip-hand"]) == 0
    plain = RunFolder.open(run).representation().maps[0].numpy()
    np.testing.assert_allclose(maps(tmp_path / "maps")[0], np.roll(plain[::-1], 1, axis=0), atol=1e-5)


def test_decode_by_reconstruction(run, tmp_path):
    (tmp_path / "index.txt").write_text("0\n")
    where = ["--particles", str(tmp_path / "index.txt"), "--reconstruct"]
    assert main(["decode", str(run), "-o", str(tmp_path / "maps"), *where]) == 0
    consensus = RunFolder.open(run).consensus_map().numpy()
    assert np.corrcoef(maps(tmp_path / "maps")[0].ravel(), consensus.ravel())[0, 1] > 0.7


def test_decode_replaces_maps_only_when_told(run, tmp_path, capsys):
    (tmp_path / "index.txt").write_text("0\n1\n2\n")
    argv = ["decode", str(run), "-o", str(tmp_path / "maps"), "--particles", str(tmp_path / "index.txt")]
    assert main(argv) == 0
    refused(argv, "holds maps already: give --overwrite", capsys)
    (tmp_path / "index.txt").write_text("5\n")
    own = tmp_path / "maps" / "20240115_raw.mrc"
    own.write_text("mine")
    assert main([*argv, "--overwrite"]) == 0
    assert own.read_text() == "mine"
    own.unlink()
    assert len(maps(tmp_path / "maps")) == 1


def test_decode_refuses(run, tmp_path, capsys):
    out = tmp_path / "maps"
    decode = ["decode", str(run), "-o", str(out)]
    (tmp_path / "index.txt").write_text("400\n")
    (tmp_path / "zero.txt").write_text("0\n")
    np.save(tmp_path / "z.npy", np.zeros((2, 3)))
    zero, index, z = (str(tmp_path / name) for name in ("zero.txt", "index.txt", "z.npy"))
    refused(decode, "give either --particles", capsys)
    refused([*decode, "--particles", zero, "--z", z], "give either --particles", capsys)
    refused([*decode, "--particles", index], "particle 400: the run has particles 0 to 399", capsys)
    refused(
        [*decode, "--particles", str(tmp_path / "gone.txt")], r"gone\.txt: no such file of particle numbers", capsys
    )
    refused([*decode, "--z", z], r"shape \(2, 3\), expected finite points of 2 numbers", capsys)
    for box in ("15", "6", "0", "-2"):
        refused([*decode, "--particles", zero, "--box", box], f"--box {box}: expected an even number", capsys)
    reconstruct = [*decode, "--particles", zero, "--reconstruct", "--box", "24"]
    refused(reconstruct, "reconstructed maps have the working box, 16", capsys)
    refused(["decode", str(tmp_path), "-o", str(out), "--particles", zero], "is not a run folder", capsys)
    assert not out.exists()


@pytest.fixture
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures as small as stamps: drawing them takes most of a tiny run's analysis."""
    monkeypatch.setattr("cryomorph.render.map_renderer.SIZE", 40)


@pytest.mark.usefixtures("small_pictures")
def test_analyze_writes_into_the_run(run):
    words = "--clusters 2 --gmm 0 --pcs 0 --no-umap --no-reconstruct"
    assert main(["analyze", str(run), *words.split()]) == 0
    assert (run / "analysis" / "report.html").is_file()
    assert len(maps(run / "analysis" / "kmeans")) == 2
    assert not (run / "analysis" / "umap.npy").exists()


def test_analyze_refuses(run, tmp_path, capsys):
    refused(["analyze", str(tmp_path)], "is not a run folder", capsys)
    for words, said in (("--clusters 0", "clusters 0: expected 1 or more"), ("--box 15", "box 15: expected an even")):
        assert main(["analyze", str(run), *words.split()]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.unchecked
@pytest.mark.usefixtures("small_pictures")
def test_demo_from_nothing_to_scores(tmp_path, capsys):
    out = tmp_path / "demo"
    argv = ["demo", "-o", str(out), "-n", "300", "--box", "16", "--pixel-A", "16", "--zdim", "2"]
    assert main(argv) == 0
    told = capsys.readouterr().out
    for line in told.splitlines()[-6:-1]:
        assert Path(line.split()[-1]).exists(), line
    scores = json.loads((out / "benchmark.json").read_text())
    assert scores
    refused(argv, "holds a demo already: give --overwrite", capsys)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    refused(["demo", "-o", str(tmp_path / "other"), "--overwrite"], "is not empty and holds no demo", capsys)
