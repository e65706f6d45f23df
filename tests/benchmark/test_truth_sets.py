"""Reading a set's truth, and the oracle, the scorer and the report that are made of it."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest
import torch
from rich.console import Console

from cryomorph.benchmark import oracle
from cryomorph.benchmark import score_runs as module
from cryomorph.benchmark.map_scorer import MapScorer
from cryomorph.benchmark.oracle import ceiling, coordinate_step, kernel, sum_states
from cryomorph.benchmark.score_runs import score_runs
from cryomorph.benchmark.table import print_table
from cryomorph.benchmark.truth_set import TruthSet
from cryomorph.cli.main import main
from cryomorph.config.errors import InputError
from cryomorph.config.simulate import SimulateConfig
from cryomorph.io.star import read_star
from cryomorph.particles.metadata import read_particles
from cryomorph.physics.pose import Pose, random_rotations, rotation_from_rotvec
from cryomorph.physics.pose_align import FrameChange
from cryomorph.runs.folder import RunFolder
from cryomorph.simulation.phantoms import PHANTOMS, Cloud, Conformations
from cryomorph.simulation.sets import simulate_set
from cryomorph.volumes.grid import fourier_crop


def small_states(count: int) -> Conformations:
    """A core and an arm that swings in a plane: a few atoms, for speed."""
    rng = np.random.default_rng(3)
    core, arm = rng.normal(0, 18, (60, 3)), rng.normal(0, 10, (40, 3)) + np.array([48, 0, 0])
    clouds = []
    for angle in np.linspace(0, 1.5, count):
        c, s = np.cos(angle), np.sin(angle)
        turned = arm @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        clouds.append(Cloud(np.concatenate([core, turned]).clip(-75, 75), np.ones(100)))
    coord = np.linspace(0, 1.5, count)
    return Conformations(tuple(clouds), np.full(count, 1 / count), coord, tuple(map(str, range(count))))


def make(folder: Path, count: int, n: int, **options: object) -> TruthSet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PHANTOMS, "uniform", lambda: small_states(count))
        simulate_set(SimulateConfig("uniform", folder, n=n, box=24, pixel_A=10.0, **options))  # type: ignore[arg-type]
    return TruthSet.open(folder)


@pytest.fixture(scope="module")
def continuum(tmp_path_factory: pytest.TempPathFactory) -> TruthSet:
    return make(tmp_path_factory.mktemp("sets") / "continuum", 13, 390, snr=1.0)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> TruthSet:
    return make(tmp_path_factory.mktemp("sets") / "classes", 2, 300)


def test_a_set_is_read_as_it_was_made(continuum: TruthSet) -> None:
    assert (len(continuum), continuum.states, continuum.box, continuum.pixel_A) == (390, 13, 24, 10)
    assert continuum.name == "uniform" and not continuum.discrete
    assert np.allclose(continuum.coord[:, 0], np.linspace(0, 1.5, 13)[continuum.label])


def test_a_folder_that_is_no_set_is_refused(tmp_path: Path, classes: TruthSet) -> None:
    with pytest.raises(InputError, match=r"no truth\.npz"):
        TruthSet.open(tmp_path)
    (tmp_path / "truth.npz").write_text("no zip")
    with pytest.raises(InputError, match="cannot be read"):
        TruthSet.open(tmp_path)
    (tmp_path / "truth.npz").write_bytes((classes.folder / "truth.npz").read_bytes())
    with pytest.raises(InputError, match="0 maps, 2 states"):
        TruthSet.open(tmp_path)


def test_picked_particles_are_spread_over_the_coordinate(continuum: TruthSet) -> None:
    picked = continuum.pick(100)
    assert len(picked) == 100 and (np.diff(picked) > 0).all()
    assert np.ptp(np.bincount(continuum.label[picked], minlength=13)) <= 2
    assert np.array_equal(continuum.pick(10_000), np.arange(390))


def test_the_moving_mask_is_where_the_arm_goes(continuum: TruthSet) -> None:
    mask = continuum.moving_mask
    assert mask is not None
    z, y, x = (int(i) for i in np.unravel_index(int(mask.argmax()), mask.shape))
    assert float(mask[z, y, x]) == pytest.approx(1)
    maps = np.stack([continuum.read_map(state).numpy() for state in range(13)])
    deviation = maps.std(axis=0)
    assert bool((mask.numpy()[deviation > 0.4 * deviation.max()] > 0.99).all())
    assert float(mask.mean()) < 0.4
    still = dataclasses.replace(continuum, maps=continuum.maps[:1])
    assert still.moving_mask is None


def test_the_kernel_is_a_gaussian_in_steps_and_borrows_where_a_state_is_empty(continuum: TruthSet) -> None:
    assert coordinate_step(continuum) == pytest.approx(1.5 / 12)
    assert kernel(continuum, 3, 2.0)[[3, 5]].tolist() == pytest.approx([1, np.exp(-0.5)])
    assert np.flatnonzero(kernel(continuum, 3, 0.0)).tolist() == [3]
    without = dataclasses.replace(continuum, label=np.where(continuum.label == 3, 4, continuum.label))
    assert np.flatnonzero(kernel(without, 3, 0.0)).tolist() == [2, 4]


def test_truth_scores_one_noise_little_and_a_coarser_map_its_shells(continuum: TruthSet) -> None:
    scorer = MapScorer(continuum)
    true = continuum.read_map(5)
    perfect = scorer.score(3 * true + 1, 5)  # scale and offset do not matter without a mask
    assert perfect["auc"] == pytest.approx(1, abs=1e-4)
    assert scorer.score(3 * true, 5) == pytest.approx(dict.fromkeys(perfect, 1), abs=1e-4)
    other = scorer.score(continuum.read_map(12), 5)
    assert other["auc_moving"] < other["auc"] < 0.95
    inverted = scorer.score(-true, 5)
    assert inverted["auc"] == 0 and inverted["auc_unclipped"] == pytest.approx(-1, abs=1e-4)
    coarse = scorer.score(fourier_crop(true, 12), 5)["auc"]
    assert 5 / 11 < coarse < 0.75  # shells 1 to 5 of 1 to 11, and the corners of a cube of frequencies


def test_the_oracle_is_above_the_consensus(continuum: TruthSet, classes: TruthSet) -> None:
    for truth in (continuum, classes):
        count = np.bincount(truth.label[truth.pick(40)], minlength=truth.states)
        found = ceiling(MapScorer(truth), count)
        assert found.oracle["auc_moving"] > found.consensus["auc_moving"] + 0.03
        assert set(found.width.values()) == {0.0} if truth.discrete else 0 < found.width["auc_moving"] < 12


def test_sums_of_all_states_are_the_back_projection_of_everything(
    tmp_path: Path, classes: TruthSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = sum_states(classes, tmp_path).solve(np.ones(2))
    (tmp_path / "one").mkdir()
    merged = dataclasses.replace(classes, label=np.zeros_like(classes.label), maps=classes.maps[:1])
    monkeypatch.setattr(oracle, "batch_size_for", lambda _: 37)
    whole = sum_states(merged, tmp_path / "one").solve(np.ones(1))
    assert torch.allclose(both, whole, atol=2e-3 * float(whole.abs().max()))


class PerfectRun(RunFolder):
    """A run whose latent is the state and whose decoder is the truth."""

    def __init__(self, truth: TruthSet, folder: Path, keep: np.ndarray) -> None:
        super().__init__(folder / "run")
        vars(self).update(truth=truth, keep=keep, pose=read_particles(truth.particles).pose[torch.from_numpy(keep)])
        self.path.mkdir(exist_ok=True)
        table = read_star(truth.particles)["particles"].iloc[keep]
        table.attrs["loop"] = True
        lines = ["data_particles", "", "loop_", "_rlnImageName #1", *table["rlnImageName"]]
        (self.path / "particles.star").write_text("\n".join(lines) + "\n")

    def latent_mean(self) -> np.ndarray:
        return self.truth.label[self.keep, None].astype(np.float32)

    def store(self) -> SimpleNamespace:
        return SimpleNamespace(
            box=self.truth.box,
            pose=self.pose,
            folder=self.path,
            manifest=SimpleNamespace(metadata="particles.star"),
        )

    def representation(self) -> SimpleNamespace:
        return SimpleNamespace(decoder=lambda box: lambda z: self.truth.read_map(round(float(z[0]))))


def test_a_perfect_run_closes_the_gap(tmp_path: Path, classes: TruthSet, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = np.random.default_rng(0).permutation(300)[:200]
    run = PerfectRun(classes, tmp_path, keep)
    monkeypatch.setattr(module, "RunFolder", SimpleNamespace(open=lambda _: run))
    report = score_runs([run.path], classes.folder, count=30)
    scores = report.runs[0].scores
    assert scores["auc"] == pytest.approx(1, abs=1e-4) and scores["ari_kmeans"] == pytest.approx(1)
    assert scores["gap"] > 1 and scores["gap_moving"] > 1
    assert report.consensus.scores["gap"] == pytest.approx(0) and report.oracle.scores["gap"] == pytest.approx(1)
    report.write(tmp_path / "benchmark.json")
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert [row["name"] for row in written["rows"]] == ["consensus", str(run.path), "oracle"]
    assert len(written["compared"]) == 30
    console = Console(record=True, width=200)
    print_table(report, console)
    text = console.export_text()
    assert re.search(r"oracle\s*│\s*0\.\d{3}", text) and "kNN acc." in text and "kNN R²" not in text


def test_poses_that_were_found_are_scored_in_the_frame_of_the_true_ones(
    tmp_path: Path, classes: TruthSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poses as given score nothing; of poses in another frame, all turned by 4 degrees, the errors are known."""
    keep = np.random.default_rng(1).permutation(300)[:200]
    run = PerfectRun(classes, tmp_path, keep)
    monkeypatch.setattr(module, "RunFolder", SimpleNamespace(open=lambda _: run))
    scores = score_runs([run.path], classes.folder, count=4, reconstruct=False).runs[0].scores
    assert not {"rotation_deg", "frobenius", "shift_pixel", "shift_A"} & set(scores)
    frame = random_rotations(1, torch.Generator().manual_seed(2))[0].double()
    other = FrameChange(frame, True, torch.tensor([20.0, 30.0, -10.0], dtype=torch.float64)).apply(run.pose)
    axis = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(3)), dim=1)
    off = Pose(rotation_from_rotvec(np.radians(4.0) * axis) @ other.rotation, other.shift_A)
    vars(run).update(pose=off)
    report = score_runs([run.path], classes.folder, count=4, reconstruct=False)
    scores = report.runs[0].scores
    assert scores["rotation_deg"] == pytest.approx(4, abs=0.4)
    assert scores["frobenius"] == pytest.approx(8 * np.sin(np.radians(2)) ** 2, rel=0.2)
    # of a displacement of 37 A, 4 degrees leave 2.6 A at most
    assert scores["shift_A"] < 2.6 and scores["shift_pixel"] == pytest.approx(scores["shift_A"] / 10)
    console = Console(record=True, width=300)
    print_table(report, console)
    assert "rotation (°)" in console.export_text()


def test_a_run_with_a_consensus_has_a_row_for_reconstructions(
    tmp_path: Path, classes: TruthSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = PerfectRun(classes, tmp_path, np.arange(300))
    (run.path / "consensus").mkdir()
    (run.path / "consensus" / "spectra.safetensors").touch()
    monkeypatch.setattr(module, "RunFolder", SimpleNamespace(open=lambda _: run))
    monkeypatch.setattr(module, "Neighbourhoods", SimpleNamespace(of=lambda _: None))
    nearby = [SimpleNamespace(map=classes.read_map(0))] * 10
    monkeypatch.setattr(module, "reconstruct_near", lambda *_: iter(nearby))
    report = score_runs([run.path], classes.folder, count=10)
    assert [row.name for row in report.runs] == [str(run.path), f"{run.path}, reconstructed"]
    assert report.runs[1].scores["auc"] < report.runs[0].scores["auc"]
    assert len(score_runs([run.path], classes.folder, count=10, reconstruct=False).runs) == 1


def test_the_command_scores_a_set_without_runs(
    tmp_path: Path, classes: TruthSet, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "scores.json"
    assert main(["benchmark", "--truth", str(classes.folder), "-o", str(output), "--pick", "6"]) == 0
    shown = capsys.readouterr().out
    assert "consensus" in shown and "oracle" in shown
    assert [row["name"] for row in json.loads(output.read_text())["rows"]] == ["consensus", "oracle"]


def test_a_run_of_other_particles_is_refused(
    tmp_path: Path, classes: TruthSet, continuum: TruthSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = PerfectRun(continuum, tmp_path, np.arange(390))
    monkeypatch.setattr(module, "RunFolder", SimpleNamespace(open=lambda _: run))
    with pytest.raises(InputError, match="up to number 390"):
        score_runs([run.path], classes.folder)
    with pytest.raises(InputError, match="--pick 0"):
        score_runs([run.path], classes.folder, count=0)


@pytest.mark.accept
def test_floor_ceiling_and_areas_are_the_referees(tmp_path: Path, shared: Path, continuum: TruthSet) -> None:
    folder = shared / "referee"

    def referee(script: str, *arguments: object) -> dict[str, float]:
        command = [sys.executable, str(folder / script), *(str(word) for word in arguments)]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    theirs = referee("ceiling.py", continuum.folder)
    count = np.bincount(continuum.label, minlength=13)
    ours = ceiling(MapScorer(continuum), count)
    assert ours.consensus["auc"] == pytest.approx(theirs["consensus_auc"], abs=0.02)
    assert ours.oracle["auc"] == pytest.approx(theirs["oracle_auc"], abs=0.02)
    picked = continuum.pick(12)
    (tmp_path / "maps").mkdir()
    scorer, areas = MapScorer(continuum), []
    rng = np.random.default_rng(0)
    for i, particle in enumerate(picked):
        state = int(continuum.label[particle])
        true = continuum.read_map((state + 3) % 13).numpy()
        found = true + rng.normal(0, 0.3 * true.std(), true.shape).astype(np.float32)
        mrcfile.write(tmp_path / "maps" / f"{i:03d}.mrc", found, voxel_size=10)
        areas.append(scorer.score(torch.from_numpy(found), state))
    np.save(tmp_path / "index.npy", picked)
    judged = referee("score.py", continuum.folder, "--volumes", tmp_path / "maps", "--index", tmp_path / "index.npy")
    assert np.mean([a["auc_unclipped"] for a in areas]) == pytest.approx(judged["auc"], abs=1e-4)
    assert np.mean([a["auc"] for a in areas]) == pytest.approx(judged["auc"], abs=0.01)
    assert np.mean([a["auc_moving"] for a in areas]) == pytest.approx(judged["auc_moving"], abs=0.03)
