"""`traverse` as typed: what it leaves, what it replaces, and every refusal in one sentence."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.sparse.csgraph import connected_components

from cryomorph.analysis.neighbour_graph import neighbour_graph
from cryomorph.cli.main import main
from cryomorph.io.mrc import read_map
from cryomorph.runs.folder import RunFolder

SMALL = ["--points", "4", "--size", "64"]


@pytest.fixture(scope="module")
def run(tiny_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny linear run (400 particles, two dimensions) that may be written into."""
    return Path(shutil.copytree(tiny_run.path, tmp_path_factory.mktemp("traverse") / "run", symlinks=True))


@pytest.fixture(scope="module")
def two(run: Path) -> list[str]:
    """Two particles that the neighbour graph connects, far apart."""
    z = RunFolder.open(run).latent_mean()
    part = connected_components(neighbour_graph(z).distance)[1]
    members = np.flatnonzero(part == np.bincount(part).argmax())
    return [str(members[z[members, 0].argmin()]), str(members[z[members, 0].argmax()])]


def refused(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with 2 and one sentence on standard error."""
    capsys.readouterr()
    assert main(["traverse", *argv]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(said, error), error


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}


def test_a_graph_path_leaves_everything(run, two, tmp_path, capsys):
    out = tmp_path / "path"
    assert main(["traverse", str(run), "--graph", *two, "-o", str(out), *SMALL]) == 0
    told = capsys.readouterr().err
    facts = json.loads((out / "path.json").read_text())
    count = len(facts["particles"])
    assert f"{count} maps" in told
    assert f"through {len(facts['visited_particles'])} particles" in told
    maps, frames = ([f"{i:06d}.{kind}" for i in range(count)] for kind in ("mrc", "png"))
    assert names(out) == {*maps, *(f"frames/{name}" for name in frames), "movie.gif", "overview.png", "path.json",
                          "path.npy", "path.txt", "play.cxc"}  # fmt: skip
    assert not [path for path in tmp_path.iterdir() if path != out]
    numbers = np.loadtxt(out / "path.txt", dtype=int)
    assert [str(numbers[0]), str(numbers[-1])] == two
    assert numbers.tolist() == facts["particles"]
    points, folder = np.load(out / "path.npy"), RunFolder.open(run)
    np.testing.assert_array_equal(points, folder.latent_mean()[numbers].astype(float))
    mean, one, other = folder.representation().maps.numpy()
    for name, (a, b) in zip(maps, points, strict=True):
        np.testing.assert_allclose(read_map(out / name)[0], mean + a * one + b * other, atol=1e-4)
        assert name in (out / "play.cxc").read_text()
    assert f"level {facts['level']:.6g} " in (out / "play.cxc").read_text()
    for name in frames:
        assert Image.open(out / "frames" / name).size == (64, 64)
    assert Image.open(out / "movie.gif").n_frames == 2 * count - 2
    assert facts["asked"]["graph"] == [int(number) for number in two]
    assert np.diff(facts["distance"]).min() > 0


def test_what_is_there_is_replaced_only_when_told(run, two, tmp_path, capsys):
    out = tmp_path / "path"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    argv = [str(run), "--between", *two, "-o", str(out), "--size", "64"]
    assert main(["traverse", *argv, "--points", "4"]) == 0
    assert "path.txt" not in names(out)
    refused([*argv, "--points", "2"], "holds a path already: give --overwrite to replace it, or another -o", capsys)
    words = ["--points", "2", "--movie", "none", "--overwrite", "--level", "1.5sigma", "--view", "side"]
    assert main(["traverse", *argv, *words]) == 0
    assert names(out) == {"000000.mrc", "000001.mrc", "frames/000000.png", "frames/000001.png", "notes.txt",
                          "overview.png", "path.json", "path.npy", "play.cxc"}  # fmt: skip
    latent = RunFolder.open(run).latent_mean()
    np.testing.assert_allclose(np.load(out / "path.npy"), latent[[int(number) for number in two]])


@pytest.mark.parametrize("name", ["path.txt", "overview.png", "000003.mrc", "frames/000000.png", "mine.mrc"])
def test_what_would_be_lost_is_never_replaced_unasked(run, tmp_path, capsys, name):
    (tmp_path / "out" / "frames").mkdir(parents=True)
    (tmp_path / "out" / name).write_text("mine")
    refused([str(run), "--pc", "1", "-o", str(tmp_path / "out"), *SMALL], "holds a path already", capsys)
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_files_of_other_names_stay(run, tmp_path):
    (tmp_path / "frames").mkdir()
    others = [tmp_path / name for name in ("movie.avi", "2024.mrcs", "frames/1.png", "play.txt")]
    for path in others:
        path.write_text("mine")
    for words in (["--overwrite"], ["--overwrite", "--movie", "none"]):
        assert (
            main(["traverse", str(run), "--pc", "1", "-o", str(tmp_path), "--points", "2", "--size", "64", *words]) == 0
        )
    assert [path.read_text() for path in others] == ["mine"] * 4
    assert not (tmp_path / "movie.gif").exists()


def test_components_go_into_the_run_and_flip_the_hand_when_told(run):
    plain = [str(run), "--pc", "1", "--movie", "none", *SMALL]
    assert main(["traverse", *plain]) == 0
    assert main(["traverse", *plain, "--flip-hand", "--box", "24", "-o", str(run / "traverse" / "other")]) == 0
    folder = run / "traverse" / "pc1"
    points = np.load(folder / "path.npy")
    assert points.shape == (4, 2)
    mean, one, two = RunFolder.open(run).representation().maps.numpy()
    here = mean + points[3, 0] * one + points[3, 1] * two
    np.testing.assert_allclose(read_map(folder / "000003.mrc")[0], here, atol=1e-4)
    flipped, pixel_A = read_map(run / "traverse" / "other" / "000003.mrc")
    assert flipped.shape == (24, 24, 24)
    assert pixel_A == pytest.approx(16 * 16 / 24)
    # every third of 24 voxels is every second of 16; the mirror goes through the origin's plane
    mirrored = np.roll(here[::-1], 1, axis=0)
    assert np.corrcoef(flipped[::3, ::3, ::3].ravel(), mirrored[::2, ::2, ::2].ravel())[0, 1] > 0.99


def test_a_volume_component_needs_a_landscape(run, tmp_path, capsys):
    argv = [str(run), "--volume-pc", "1", "-o", str(tmp_path / "path"), "--movie", "none", *SMALL]
    refused(argv, "coordinates.npy: no such file; `cryomorph landscape", capsys)
    z = RunFolder.open(run).latent_mean()
    (run / "landscape").mkdir()
    np.save(run / "landscape" / "coordinates.npy", z[:, ::-1])
    assert main(["traverse", *argv]) == 0
    chosen = np.loadtxt(tmp_path / "path" / "path.txt", dtype=int)
    assert (np.diff(z[chosen, 1]) > 0).all()
    refused([str(run), "--volume-pc", "3"], "--volume-pc 3: the landscape has 2 components", capsys)


def test_what_is_refused_leaves_nothing(run, two, tmp_path, capsys, monkeypatch):
    out = ["-o", str(tmp_path / "new" / "path"), *SMALL]
    one, other = two
    refused([str(run), *out], "found none: expected exactly one of --pc, --between, --graph and --volume-pc", capsys)
    refused([str(run), "--pc", "1", "--graph", *two, *out], "found --pc and --graph", capsys)
    refused([str(run), "--graph", one, "400", *out], "particle 400: the run has particles 0 to 399", capsys)
    refused([str(run), "--graph", one, *out], "--graph with 1 particles: expected two", capsys)
    refused([str(run), "--graph", one, other, one, *out], f"names particle {one} twice", capsys)
    refused([str(run), "--pc", "3", *out], "--pc 3: the latent space has 2 components: expected 1 to 2", capsys)
    refused([str(run), "--between", *two, *out, "--level", "1e9"], "the maps have a surface from", capsys)
    refused([str(tmp_path), "--pc", "1", *out], "is not a run folder", capsys)
    (tmp_path / "file").write_text("")
    refused([str(run), "--pc", "1", "-o", str(tmp_path / "file")], "is a file: expected a folder", capsys)
    monkeypatch.setattr("cryomorph.render.movie.find_spec", lambda name: None)
    refused([str(run), "--pc", "1", *out, "--movie", "mp4"], "needs the package imageio-ffmpeg", capsys)
    assert not [path for path in tmp_path.rglob("*") if path.name not in ("file", "new")]


def test_an_unconnected_particle_is_named(run, two, tmp_path, capsys):
    alone = int(np.flatnonzero(neighbour_graph(RunFolder.open(run).latent_mean()).degrees == 0)[0])
    argv = [str(run), "--graph", two[0], str(alone), "-o", str(tmp_path / "path")]
    refused(argv, rf"no path .* to particle {alone} \(nearest to it there: \d+\): .*--degree above 5", capsys)


def test_runs_that_have_no_path(run, tmp_path, capsys):
    flat = Path(shutil.copytree(run, tmp_path / "flat", symlinks=True))
    np.save(flat / "latent_mean.npy", np.zeros((400, 0), np.float32))
    refused([str(flat), "--pc", "1"], r"has no latent space \(--zdim 0\)", capsys)
    (flat / "model.safetensors").unlink()
    refused([str(flat), "--pc", "1"], "has no model.safetensors yet", capsys)
