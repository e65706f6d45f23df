"""Sets on disk: their signal-to-noise, their truth, and that they appear whole or not at all."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryomorph.cli.main import main
from cryomorph.config.errors import InputError
from cryomorph.config.simulate import SimulateConfig
from cryomorph.particles.metadata import read_particles
from cryomorph.physics.pose import euler_from_rotation
from cryomorph.simulation import images, sets
from cryomorph.simulation.phantoms import PHANTOMS, Cloud, Conformations
from cryomorph.simulation.sets import simulate_set


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The set `compositional` made of a few atoms, for speed; the other sets are themselves."""
    rng = np.random.default_rng(0)
    clouds = tuple(Cloud(rng.normal(0, 25, (atoms, 3)).clip(-50, 50), np.ones(atoms)) for atoms in (40, 60, 70))
    states = Conformations(clouds, np.array([0.2, 0.3, 0.5]), np.arange(3.0), ("a", "b", "c"))
    monkeypatch.setitem(PHANTOMS, "compositional", lambda: states)


def config(output: Path, name: str = "compositional", **options: object) -> SimulateConfig:
    defaults: dict[str, object] = {"n": 40, "box": 24, "pixel_A": 10.0}
    return SimulateConfig(name, output, **(defaults | options))  # type: ignore[arg-type]


def stack(folder: Path) -> np.ndarray:
    return mrcfile.read(folder / "particles.mrcs")


def test_signal_to_noise_is_what_was_asked_for(tmp_path: Path) -> None:
    noisy = stack(simulate_set(config(tmp_path / "noisy", n=1200, snr=0.2))).astype(np.float64)
    clean = stack(simulate_set(config(tmp_path / "clean", n=1200, snr=float("inf")))).astype(np.float64)
    assert noisy.mean() == pytest.approx(0, abs=0.01) and noisy.std() == pytest.approx(1, rel=0.01)
    assert clean.mean() == pytest.approx(0, abs=0.01) and clean.std() == pytest.approx(1, rel=0.02)
    scale = (noisy * clean).sum() / (clean**2).sum()
    noise = noisy - scale * clean
    assert scale**2 * clean.var() / noise.var() == pytest.approx(0.2, rel=0.03)
    # white: as much power in the middle of the spectrum as at its edge
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(axis=0)
    assert power[0, 2] / power[12, 12] == pytest.approx(1, rel=0.2)


def test_a_seed_decides_everything_and_memory_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stack(simulate_set(config(tmp_path / "a")))
    again = stack(simulate_set(config(tmp_path / "b")))
    other = stack(simulate_set(config(tmp_path / "c", seed=1)))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    monkeypatch.setattr(images, "TABLE_BYTES", images.TABLE_BYTES // 100)
    small_batches = stack(simulate_set(config(tmp_path / "d")))
    assert np.abs(first - small_batches).max() < 1e-4


def test_the_truth_is_that_of_the_star_file_and_of_the_images(tmp_path: Path) -> None:
    """A noise-free image is the central slice of its true map, at the pose that the readers find."""
    folder = simulate_set(config(tmp_path / "set", n=6, box=16, pixel_A=16.0, snr=float("inf"), ctf=False))
    particles = read_particles(folder / "particles.star")
    with np.load(folder / "truth.npz", allow_pickle=False) as file:
        truth = dict(file)
    assert particles.ctf is None and particles.pose is not None
    assert np.abs(particles.pose.rotation.numpy() - truth["R"]).max() < 1e-5
    assert np.abs(particles.pose.shift_A.numpy() + truth["shift"]).max() < 1e-4
    position = (np.stack(np.meshgrid(*[np.arange(16) - 8] * 3, indexing="ij"), -1)[..., ::-1] * 16.0).reshape(-1, 3)
    k = np.array([(1, 0), (0, 1), (2, 1), (-2, 3)]) / (16 * 16.0)
    y, x = np.meshgrid(*[(np.arange(16) - 8) * 16.0] * 2, indexing="ij")
    measured, expected = [], []
    for i, image in enumerate(particles.read(np.arange(6))):
        density = mrcfile.read(folder / "maps" / f"{truth['label'][i]:03d}.mrc").ravel()
        at = position @ truth["R"][i].T[:, :2] + truth["shift"][i]
        expected.append([(density * np.exp(-2j * np.pi * at @ q)).sum() for q in k])
        measured.append([(image * np.exp(-2j * np.pi * (x * q[0] + y * q[1]))).sum() for q in k])
    ratio = np.array(measured) / np.array(expected)
    scale = ratio.real.mean()
    assert scale > 0
    assert np.abs(ratio / scale - 1).max() < 0.02


def test_the_layout_is_the_referees(tmp_path: Path) -> None:
    folder = simulate_set(config(tmp_path / "set", "two-hinge", n=170, box=20, pixel_A=12.0))
    assert sorted(p.name for p in folder.iterdir()) == [
        "made.json", "maps", "particles.mrcs", "particles.star", "truth.npz",
    ]  # fmt: skip
    with np.load(folder / "truth.npz", allow_pickle=False) as truth:
        shapes = {name: truth[name].shape for name in truth.files}
        label, euler, rotation = truth["label"], truth["euler"], truth["R"]
    assert shapes == {
        "label": (170,), "coord": (170, 2), "conf_coord": (81, 2), "R": (170, 3, 3), "shift": (170, 2),
        "euler": (170, 3), "sigma": (), "apix": (),
    }  # fmt: skip
    assert set(np.bincount(label, minlength=81)) <= {2, 3}  # states in proportion
    assert np.abs(euler_from_rotation(torch.from_numpy(rotation)).numpy() - euler).max() < 0.1
    assert len(list((folder / "maps").glob("*.mrc"))) == 81
    assert mrcfile.open(folder / "maps" / "000.mrc").voxel_size.x == pytest.approx(12)
    made = json.loads((folder / "made.json").read_text())
    assert {key: made[key] for key in ("name", "box", "apix", "no_ctf", "snr", "seed", "n")} == {
        "name": "two-hinge", "box": 20, "apix": 12.0, "no_ctf": False, "snr": 0.1, "seed": 0, "n": 170,
    }  # fmt: skip


def test_rotations_are_uniform_and_shifts_fill_their_square(tmp_path: Path) -> None:
    made = config(tmp_path / "set", "rigid", n=20_000, shift=1.0)
    drawn = sets.draw(made, sets.conformations_of(made), 10.0)
    mean = drawn.pose.rotation.mean(0)
    assert mean.abs().max() < 0.02  # the mean of a uniform rotation is 0
    assert (drawn.pose.rotation**2).mean(0).sub(1 / 3).abs().max() < 0.02
    shift = drawn.pose.shift_A
    assert shift.abs().max() <= 10 and shift.std(0).sub(10 / 3**0.5).abs().max() < 0.1
    assert drawn.ctf is not None
    assert float(drawn.ctf.defocus_u_A.min()) >= 9000 and float(drawn.ctf.defocus_u_A.max()) <= 26000
    astigmatism = drawn.ctf.defocus_u_A - drawn.ctf.defocus_v_A
    assert float(astigmatism.min()) >= -0.01 and float(astigmatism.max()) <= 600.01


def test_ctf_rows_come_from_another_star_file(tmp_path: Path) -> None:
    source = simulate_set(config(tmp_path / "source", defocus=(5000.0, 6000.0), voltage=200.0, n=10))
    folder = simulate_set(config(tmp_path / "set", ctf_from=source / "particles.star"))
    given, taken = (read_particles(path / "particles.star").ctf for path in (source, folder))
    assert given is not None and taken is not None
    assert set(taken.defocus_u_A.tolist()) <= set(given.defocus_u_A.tolist())
    assert taken.voltage_kV.unique().tolist() == [200]
    bare = simulate_set(config(tmp_path / "bare", ctf=False, n=3))
    with pytest.raises(InputError, match="no CTF parameters"):
        simulate_set(config(tmp_path / "wrong", ctf_from=bare / "particles.star"))


def test_a_set_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(sets, "write_map", fail)
        with pytest.raises(OSError, match="no space"):
            simulate_set(config(tmp_path / "set", n=3))
    assert list(tmp_path.iterdir()) == []
    simulate_set(config(tmp_path / "set", n=3))
    with pytest.raises(InputError, match="--overwrite"):
        simulate_set(config(tmp_path / "set", n=3))
    simulate_set(config(tmp_path / "set", n=5, overwrite=True))
    assert len(stack(tmp_path / "set")) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="holds no simulated set"):
        simulate_set(config(tmp_path / "mine", n=3, overwrite=True))


def test_the_command_makes_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "set"
    arguments = ["simulate", "compositional", "-o", str(output), "-n", "4", "--box", "24", "--pixel-A", "10"]
    assert main([*arguments, "--no-ctf", "--snr", "inf"]) == 0
    made = json.loads((output / "made.json").read_text())
    assert made["no_ctf"] and made["snr"] is None
    assert main(arguments) == 2  # it is there already
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "-n 0"),
        ({"snr": 0.0}, "--snr"),
        ({"snr": float("nan")}, "--snr"),
        ({"box": 25}, "even"),
        ({"pixel_A": 3.0}, "raise --box or --pixel-A"),
        ({"shift": 12.0}, "--shift"),
        ({"seed": -1}, "--seed"),
        ({"defocus": (9000.0, 8000.0)}, "rising"),
        ({"move": "A"}, "simulate model"),
        ({"name": "model"}, "--model FILE"),
    ],
)
def test_senseless_options_are_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    name = str(options.pop("name", "compositional"))
    with pytest.raises(InputError, match=message):
        simulate_set(config(tmp_path / "set", name, **options))
    assert list(tmp_path.iterdir()) == []


def run_referee(shared: Path, *arguments: object) -> str:
    command = [sys.executable, str(shared / "referee" / "score.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.accept
def test_the_referee_scores_our_sets(tmp_path: Path, shared: Path) -> None:
    folder = simulate_set(config(tmp_path / "set", "uniform", n=300))
    index = run_referee(shared, folder, "--pick", 20)
    (tmp_path / "index.txt").write_text(index)
    label = np.load(folder / "truth.npz")["label"]
    (tmp_path / "maps").mkdir()
    for i, particle in enumerate(int(word) for word in index.split()):
        (tmp_path / "maps" / f"{i:03d}.mrc").symlink_to(folder / "maps" / f"{label[particle]:03d}.mrc")
    np.save(tmp_path / "z.npy", np.stack([label * 0.1, label * 0.0], axis=1))
    scores = json.loads(
        run_referee(
            shared, folder, "--volumes", tmp_path / "maps", "--index", tmp_path / "index.txt", "--z", tmp_path / "z.npy"
        )
    )
    assert scores["auc"] == pytest.approx(1) and scores["auc_moving"] == pytest.approx(1)
    assert scores["spearman_pc1"] == pytest.approx(1, abs=1e-4)


@pytest.mark.accept
def test_an_antibody_swings_its_fab(tmp_path: Path, shared: Path) -> None:
    made = config(tmp_path / "igg", "model", model=shared / "data" / "structures" / "1igy.pdb", n=12)
    made = dataclasses.replace(made, move="A:1-113,B:1-115", conformations=4)
    folder = simulate_set(made)
    first, last = (mrcfile.read(folder / "maps" / name) for name in ("000.mrc", "003.mrc"))
    assert 0.5 < np.corrcoef(first.ravel(), last.ravel())[0, 1] < 0.99
