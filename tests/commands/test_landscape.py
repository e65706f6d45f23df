"""`landscape` end to end: what it writes says the same as the model, numpy and the truth."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.analysis.landscape.landscape import find_landscape, multidimensional_scaling, sketch_size
from cryomorph.analysis.landscape.sketch import decoder
from cryomorph.cli.main import main
from cryomorph.commands import landscape as landscape_files
from cryomorph.commands.landscape import landscape
from cryomorph.config.errors import InputError
from cryomorph.config.landscape import LandscapeConfig
from cryomorph.io.mrc import read_map, write_map
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import mirror

TABLES = {"coordinates.npy", "states.npy", "curve.npy", "sketch_coordinates.npy", "sketch_states.npy", "sketch_mds.npy"}
FILES_OF_A_RUN = (
    *("config.json", "provenance.json", "model.safetensors", "latent_mean.npy", "latent_std.npy"),
    "particles/manifest.json",
)


@pytest.fixture(scope="module", autouse=True)
def small_pictures() -> Iterator[None]:
    """Pictures as small as stamps: drawing them takes most of a tiny run's landscape."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryomorph.render.map_renderer.SIZE", 40)
        patch.setattr("cryomorph.report.landscape.states.SIZE", 40)
        patch.setattr("cryomorph.report.landscape.volume_space.SIZE", 40)
        yield


@pytest.fixture(scope="module")
def config(tiny_run, tmp_path_factory: pytest.TempPathFactory) -> LandscapeConfig:
    output = tmp_path_factory.mktemp("landscape") / "deep" / "out"
    return LandscapeConfig(
        tiny_run.path, output, states=3, trajectories=1, pc_points=3, umap=False, save_maps=True, device="cpu"
    )


@pytest.fixture(scope="module")
def made(config) -> Path:
    assert config.output is not None
    assert landscape(config) == config.output / "report.html"
    return config.output


def load(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"{name}.npy", allow_pickle=False)


def numbers(path: Path) -> np.ndarray:
    return np.loadtxt(path, dtype=int, ndmin=1)


def in_sphere(run: RunFolder, z: np.ndarray) -> np.ndarray:
    """The model's own map at a latent point, within the sphere."""
    line = np.arange(16) - 8
    inside = line[:, None, None] ** 2 + line[:, None] ** 2 + line**2 <= 64
    return run.representation().volume(torch.tensor(z, dtype=torch.float32), 16).numpy() * inside


def test_everything_promised_is_there(made, tiny_run):
    assert {path.name for path in made.iterdir()} == TABLES | {
        "landscape.json", "report.html", "sketch.txt", "mask.mrc", "states", "pca", "curve", "maps", "figures",
    }  # fmt: skip
    states = {f"state_{i}{end}" for i in range(3) for end in (".txt", ".mrc", "_std.mrc")}
    assert {path.name for path in (made / "states").iterdir()} == states
    assert len(list((made / "maps").iterdir())) == len(numbers(made / "sketch.txt")) == 100
    assert {path.name for path in (made / "pca" / "pc1").iterdir()} == {
        "decoded", "linear", "particles.txt", "positions.txt",
    }  # fmt: skip
    assert not (tiny_run.path / "landscape").exists()


def test_every_particle_is_in_one_list(made):
    states = load(made, "states")
    for state in range(3):
        np.testing.assert_array_equal(numbers(made / "states" / f"state_{state}.txt"), np.flatnonzero(states == state))
    facts = json.loads((made / "landscape.json").read_text())
    assert [row["particles"] for row in facts["states"]] == np.bincount(states).tolist()
    assert sum(row["particles"] for row in facts["states"]) == 400
    assert sum(row["maps"] for row in facts["states"]) == facts["maps"] == 100


def test_state_maps_are_of_the_model_s_own_maps(made, tiny_run):
    sketch, labels, z = numbers(made / "sketch.txt"), load(made, "sketch_states"), tiny_run.latent_mean()
    np.testing.assert_array_equal(load(made, "states")[sketch], labels)
    for state in range(3):
        own = np.stack([in_sphere(tiny_run, z[i]) for i in sketch[labels == state]])
        mean, pixel_A = read_map(made / "states" / f"state_{state}.mrc")
        scale = np.abs(own).max()
        np.testing.assert_allclose(mean, own.mean(0), atol=1e-4 * scale)
        np.testing.assert_allclose(
            read_map(made / "states" / f"state_{state}_std.mrc")[0], own.std(0), atol=1e-4 * scale
        )
        assert pixel_A == pytest.approx(16)
    np.testing.assert_allclose(read_map(made / "maps" / "000005.mrc")[0], in_sphere(tiny_run, z[sketch[5]]), atol=1e-4)


def test_coordinates_are_projections_of_the_model_s_maps(made, tiny_run):
    """Any particle's map, masked, less the mean of the sketch's, on an eigen-volume."""
    z, coordinates = tiny_run.latent_mean(), load(made, "coordinates")
    mask, mean, pc1 = (read_map(made / name)[0] for name in ("mask.mrc", "pca/mean.mrc", "pca/pc1.mrc"))
    assert np.linalg.norm(pc1) == pytest.approx(1, rel=1e-4)
    expected = [np.sum(mask * (in_sphere(tiny_run, point) - mean) * pc1) for point in z[::17]]
    np.testing.assert_allclose(coordinates[::17, 0], expected, atol=1e-3 * np.std(expected))
    assert json.loads((made / "landscape.json").read_text())["r2"] > 0.9999  # affine


def test_maps_along_a_component(made, tiny_run):
    """Decoded at the particles that are named; straight, the mean plus so much of the component."""
    folder = made / "pca" / "pc1"
    particles, places = numbers(folder / "particles.txt"), np.loadtxt(folder / "positions.txt")
    along = load(made, "coordinates")[:, 0]
    np.testing.assert_allclose(along[particles], places, rtol=1e-4)
    low, high = np.percentile(along, [5, 95])
    assert np.abs(places - np.linspace(low, high, 3)).max() < 0.1 * (high - low)
    mean, pc1 = read_map(made / "pca" / "mean.mrc")[0], read_map(made / "pca" / "pc1.mrc")[0]
    for row, (particle, place) in enumerate(zip(particles, places, strict=True)):
        exact = tiny_run.representation().volume(torch.tensor(tiny_run.latent_mean()[particle]), 16)
        np.testing.assert_allclose(read_map(folder / "decoded" / f"{row:06d}.mrc")[0], exact, atol=1e-4)
        np.testing.assert_allclose(read_map(folder / "linear" / f"{row:06d}.mrc")[0], mean + place * pc1, atol=1e-4)


def test_the_report_and_its_figures(made):
    page = (made / "report.html").read_text()
    assert 'src="http' not in page
    for said in (
        "Volume space",
        "States",
        "Other views",
        "Along the curve",
        "Along volume PC1",
        "Placing all particles",
    ):
        assert f">{said}<" in page
    figures = {path.stem for path in (made / "figures").iterdir()}
    for name in ("counts-of-maps-and-particles", "explained-variance", "maps-by-state-in-mds", "states-side-by-side",
                 "maps-by-state-in-volume-pc1-and-volume-pc2", "particles-in-volume-pc1-and-volume-pc2"):  # fmt: skip
        assert name in figures


def test_again_replaces_what_was_there_and_leaves_the_rest(config, made, tmp_path):
    shutil.copytree(made, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    again = replace(config, output=tmp_path / "out", states=2, save_maps=False, flip_hand=True, trajectories=0)
    landscape(again)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert "notes.txt" in left
    assert "maps" not in left
    assert not (tmp_path / "out" / "states" / "state_2.mrc").exists()
    plain = torch.tensor(read_map(made / "pca" / "mean.mrc")[0])
    np.testing.assert_allclose(read_map(tmp_path / "out" / "pca" / "mean.mrc")[0], mirror(plain).numpy(), atol=1e-5)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_same_seed_gives_the_same_tables(config, made, tmp_path):
    landscape(replace(config, output=tmp_path / "out", save_maps=False, trajectories=0))
    # the last digits of the curve's sums depend on the number of threads, which other libraries change
    np.testing.assert_allclose(load(tmp_path / "out", "curve"), load(made, "curve"), atol=1e-5)
    for name in TABLES - {"curve.npy"}:
        assert (tmp_path / "out" / name).read_bytes() == (made / name).read_bytes(), name


def test_a_mask_and_a_box_of_the_user(config, made, tiny_run, tmp_path):
    mask = np.zeros((12, 12, 12), dtype=np.float32)
    mask[4:8, 4:8, 4:8] = 1
    write_map(tmp_path / "mask.mrc", mask, 20.0)
    small = replace(
        config, output=tmp_path / "out", mask=tmp_path / "mask.mrc", box=12, trajectories=0, save_maps=False
    )
    landscape(small)
    facts = json.loads((tmp_path / "out" / "landscape.json").read_text())
    assert facts["box"] == 12
    assert facts["mask_voxels"] == 64
    assert facts["pixel_A"] == pytest.approx(16 * 16 / 12)


def test_with_the_hand_flipped_everything_is_mirrored_and_drawn_so(config, made, tiny_run, tmp_path, monkeypatch):
    """A mask that is no mirror image of itself: numbers stay as they are; what is drawn is what is written."""
    mask = np.zeros((16, 16, 16), dtype=np.float32)
    mask[2:9, 3:13, 3:13] = 1
    write_map(tmp_path / "mask.mrc", mask, 16.0)
    drawn: list[torch.Tensor] = []
    monkeypatch.setattr(
        "cryomorph.commands.landscape.write_landscape_report",
        lambda *given, along, path, **facts: drawn.append(torch.cat([given[2].mean_map[None], path.decoded])),
    )
    plain = replace(config, output=tmp_path / "plain", mask=tmp_path / "mask.mrc", save_maps=False)
    flipped = replace(plain, output=tmp_path / "flipped", flip_hand=True)
    for asked in (plain, flipped):
        landscape(asked)
    for name in ("states", "coordinates"):
        np.testing.assert_allclose(load(flipped.output, name), load(plain.output, name), atol=1e-3)
    for name in ("mask", "pca/mean", "pca/pc1", "states/state_0", "states/state_0_std", "pca/pc1/linear/000000",
                 "curve/000001"):  # fmt: skip
        one, other = (torch.tensor(read_map(asked.output / f"{name}.mrc")[0]) for asked in (plain, flipped))
        torch.testing.assert_close(other, mirror(one), atol=1e-4, rtol=0)
    for unlike, like in zip(*drawn, strict=True):
        torch.testing.assert_close(like, mirror(unlike), atol=1e-4, rtol=0)


def refused(said: str, capsys: pytest.CaptureFixture[str], *argv: object) -> None:
    """The command ends with 2 and one sentence on standard error."""
    capsys.readouterr()
    assert main(["landscape", *map(str, argv)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(said, error), error


def test_bad_input_is_refused_in_one_sentence(tiny_run, tmp_path, capsys):
    write_map(tmp_path / "mask.mrc", np.ones((8, 8, 8)), 2.0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    (tmp_path / "file").write_text("")
    run = tiny_run.path
    refused("not a run folder", capsys, tmp_path)
    refused(
        r"8 voxels a side of 2 A, the box of the maps \(--box\) has 16 of 16 A: expected about the same field of view",
        capsys,
        run,
        "--mask",
        tmp_path / "mask.mrc",
    )
    refused("--states 101: the sketch of 400 particles has 100 maps", capsys, run, "--states", 101)
    refused("--states 30: there are only 20 maps", capsys, run, "--states", 30, "--sketch", 20)
    refused("holds no landscape: give another -o", capsys, run, "-o", tmp_path / "full")
    refused("is a file", capsys, run, "-o", tmp_path / "file")
    refused("--box 15: expected an even number", capsys, run, "--box", 15)
    refused("--pairs 2: expected 16", capsys, run, "--pairs", 2)
    refused("--pairs 20000: expected 10000 or fewer", capsys, run, "--pairs", 20000)
    refused("--seed -1: expected 0 or more", capsys, run, "--seed", -1)
    refused("--sketch 9: UMAP needs 10 maps", capsys, run, "--sketch", 9, "--states", 2)
    refused("--device tpu", capsys, run, "--device", "tpu")
    assert not (run / "landscape").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_damaged_run_is_refused_before_any_map_is_decoded(tiny_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(landscape_files, "find_landscape", None)  # hours of work: what the report needs is read before

    def damaged(name: str, content: bytes) -> Path:
        run = Path(shutil.copytree(tiny_run.path, tmp_path / f"{name}{len(content)}", symlinks=True))
        (run / name).write_bytes(content)
        return run

    cut = {name: (tiny_run.path / name).read_bytes()[:150] for name in FILES_OF_A_RUN}
    for name, content in cut.items():
        run = damaged(name, content)
        refused(f"^error: {re.escape(str(run / name))} cannot be read", capsys, run)
        assert not (run / "landscape").exists()
    np.save(tmp_path / "three.npy", np.zeros((400, 3), np.float32))
    run = damaged("latent_mean.npy", (tmp_path / "three.npy").read_bytes())
    (run / "latent_std.npy").write_bytes((tmp_path / "three.npy").read_bytes())
    refused("the model has 2 latent coordinates, latent_mean.npy 3", capsys, run)
    run = damaged("config.json", b"{}")
    (run / "particles").unlink() if (run / "particles").is_symlink() else shutil.rmtree(run / "particles")
    refused("config.json does not say 'method'", capsys, run)
    (run / "config.json").write_bytes((tiny_run.path / "config.json").read_bytes())
    refused("particles is not a particle store", capsys, run)
    (tmp_path / "mask.mrc").write_text("none")
    refused("mask.mrc holds 4 bytes, fewer than", capsys, tiny_run.path, "--mask", tmp_path / "mask.mrc")
    refused("gone.mrc cannot be read", capsys, tiny_run.path, "--mask", tmp_path / "gone.mrc")


def test_interrupted_while_it_writes_the_old_landscape_is_whole(config, made, tmp_path, capsys, monkeypatch):
    old = Path(shutil.copytree(made, tmp_path / "out"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(landscape_files, "write_landscape_report", interrupt)
    words = ["--states", 3, "--sketch", 20, "--pairs", 16, "--trajectories", 0, "--no-umap", "--device", "cpu"]
    assert main(["landscape", str(config.run), "-o", str(old), *map(str, words)]) == 130
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("interrupted: ")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_too_few_particles_are_refused():
    with pytest.raises(InputError, match="39 particles, too few"):
        sketch_size(LandscapeConfig(Path("run")), 39)
    assert sketch_size(LandscapeConfig(Path("run"), states=2), 40) == 10
    assert sketch_size(LandscapeConfig(Path("run")), 50_000) == 500


def test_a_rare_state_of_noisy_latent_points_is_found():
    """Five compositions of four parts, one of them 0.8 % of the particles, seen through latent points with noise."""
    rng = np.random.default_rng(0)
    line = torch.arange(16) - 8
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    place = [(0, 0, 0), (4, 0, 0), (0, 4, 0), (0, 0, 4), (-4, 0, 0)]
    parts = [torch.exp(-((z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2) / 4.0) for a, b, c in place]
    has = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 1]])
    truth = rng.choice(5, 4000, p=[0.28, 0.30, 0.25, 0.162, 0.008])
    points = (has[truth] + rng.normal(0, 0.15, (4000, 4))).astype(np.float64)
    decode = decoder(LinearSubspace(torch.stack(parts)), 16, torch.device("cpu"))
    asked = LandscapeConfig(Path("run"), states=5, sketch=300, umap=False)
    found = find_landscape(asked, decode, 16, z=points, std=np.full((4000, 4), 0.15))
    state = np.bincount(found.states.particles[truth == 4]).argmax()
    both = ((found.states.particles == state) & (truth == 4)).sum()
    assert both >= 0.8 * (truth == 4).sum()
    assert both >= 0.8 * (found.states.particles == state).sum()
    assert found.states.suggestion.states == 5
    assert found.states.suggestion.clear


def test_maps_that_need_much_memory_are_announced(monkeypatch, capsys):
    monkeypatch.setattr("cryomorph.analysis.landscape.landscape.MUCH", 2**20)
    decode = decoder(LinearSubspace(torch.rand(2, 16, 16, 16)), 16, torch.device("cpu"))
    z = np.random.default_rng(0).normal(size=(1000, 1))
    for sketch, said in ((60, False), (250, True)):  # 2,145 voxels of 4 bytes in the sphere: 0.5 and 2.0 MB
        asked = LandscapeConfig(Path("run"), states=2, sketch=sketch, umap=False)
        find_landscape(asked, decode, 16, z=z, std=np.full_like(z, 0.1))
        assert (f"{sketch} maps of 16 voxels take" in capsys.readouterr().err.replace("\n", " ")) is said


def test_mds_of_points_in_a_plane_keeps_their_distances():
    plane = np.random.default_rng(0).normal(size=(60, 2))
    turned = plane @ np.linalg.qr(np.random.default_rng(1).normal(size=(2, 2)))[0]
    from scipy.spatial.distance import pdist

    np.testing.assert_allclose(
        pdist(multidimensional_scaling(np.pad(turned, ((0, 0), (0, 3))))), pdist(plane), rtol=1e-3
    )
    assert multidimensional_scaling(plane[:, :1]).shape == (60, 2)
