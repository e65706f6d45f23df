"""Ab initio end to end: poses of a phantom found from its images alone, interrupted, resumed, refused."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.abinit import find_poses as abinit
from cryomorph.abinit import random_starts
from cryomorph.abinit import rounds as abinit_rounds
from cryomorph.abinit.find_poses import find_poses
from cryomorph.abinit.initial_model import InitialModelPlan
from cryomorph.abinit.random_starts import RandomStarts
from cryomorph.abinit.rounds import Step, next_step
from cryomorph.config.abinit import AbinitConfig
from cryomorph.config.errors import InputError
from cryomorph.config.linear import LinearConfig
from cryomorph.config.prepare import ImageSource
from cryomorph.config.simulate import SimulateConfig
from cryomorph.io.mrc import read_map
from cryomorph.io.star import read_star, write_star
from cryomorph.particles.metadata import read_particles
from cryomorph.physics.pose import Pose, random_rotations, rotation_distance_deg
from cryomorph.physics.pose_align import compare_poses
from cryomorph.poses import search as pose_search
from cryomorph.report.abinit import write_abinit_report
from cryomorph.runs.checkpoint import save_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.simulation.images import Grid, map_of
from cryomorph.simulation.phantoms import eight_state, rigid
from cryomorph.simulation.sets import simulate_set
from cryomorph.volumes.align import align_maps, moved_map
from cryomorph.volumes.backproject import mirror

# the search and the fit are run with the checks of shapes in test_initial_model.py and poses/
pytestmark = pytest.mark.unchecked

N, PIXEL_A = 400, 7.0
ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
ORIGINS = ["rlnOriginXAngst", "rlnOriginYAngst"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A rigid phantom: images of little noise in box 32, off centre by up to a pixel."""
    target = tmp_path_factory.mktemp("rigid") / "set"
    return simulate_set(SimulateConfig("rigid", target, n=N, box=32, pixel_A=PIXEL_A, snr=2.0, shift=1.0, seed=3))


@pytest.fixture(scope="module")
def config(folder) -> AbinitConfig:
    """What is quick and enough for images of little noise; the output is to be replaced."""
    return AbinitConfig(
        folder / "particles.star",
        Path("nowhere"),
        starts=2,
        start_images=320,
        start_radius=6,
        search_radius=8,
        search_rounds=2,
        polish_rounds=1,
        shift_range=0.04,
        seed=1,
        device="cpu",
    )


@pytest.fixture(autouse=True, scope="module")
def quick_starts():
    """RandomStarts of a few iterations over the coarsest grid, and searches without large banks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            random_starts,
            "InitialModelPlan",
            partial(InitialModelPlan, first_radius=3, iterations=30, batch=200, level=0),
        )
        # fine slices are interpolated: their bank takes longer to make than it saves on few images
        patch.setattr(pose_search, "MAX_BANK", 1 << 21)
        yield


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory, quick_starts) -> RunFolder:
    """The run of `config`, uninterrupted."""
    return find_poses(replace(config, output=tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture(scope="module")
def true(folder) -> Pose:
    pose = read_particles(folder / "particles.star").pose
    assert pose is not None
    return pose


def rows(run: RunFolder) -> list[dict]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def poses_of(run: RunFolder) -> Pose:
    return run.store().require_pose()


def assert_same(run: RunFolder, other: RunFolder) -> None:
    assert torch.equal(poses_of(run).rotation, poses_of(other).rotation)
    assert torch.equal(poses_of(run).shift_A, poses_of(other).shift_A)
    for name, tensor in other.model_tensors().items():
        assert torch.equal(run.model_tensors()[name], tensor), name


def test_poses_are_found_in_the_map_s_own_frame_and_hand(whole, true):
    errors = compare_poses(poses_of(whole), true).errors
    assert float(errors.rotation_deg.median()) < 4
    assert float(errors.shift_A.median()) < 0.2 * PIXEL_A
    assert float((errors.rotation_deg < 10).double().mean()) > 0.9


def test_the_map_is_the_molecule(whole, folder):
    truth = torch.from_numpy(np.array(read_map(folder / "maps" / "000.mrc")[0])).float()
    assert align_maps(whole.consensus_map(), truth).correlation > 0.9
    # poses and map are of one frame
    frame = compare_poses(poses_of(whole), read_particles(folder / "particles.star").pose).frame
    moved = moved_map(whole.consensus_map(), frame.rotation, frame.displacement_A / PIXEL_A, flipped=frame.flipped)
    assert float(torch.corrcoef(torch.stack([moved.flatten(), truth.flatten()]))[0, 1]) > 0.9


def test_a_run_holds_what_a_user_needs(whole):
    assert whole.is_complete and RunFolder.open(whole.path).config()["method"] == "abinit"
    assert whole.latent_mean().shape == whole.latent_std().shape == (N, 0)
    assert whole.model_tensors()["maps"].shape[0] == 1
    assert torch.equal(whole.model_tensors()["maps"][0], whole.consensus_map())
    names = {path.name for path in (whole.path / "abinit").iterdir()}
    rounds = [row["step"] for row in rows(whole) if row["stage"] in ("search", "refine")]
    assert rounds == list(range(1, len(rounds) + 1))
    assert {f"round-{number}.mrc" for number in rounds} | {f"views-{number}.npy" for number in rounds} <= names
    for number in rounds:
        assert np.load(whole.path / "abinit" / f"views-{number}.npy").sum() == N
    text = write_abinit_report(whole).read_text()
    assert "independent random starts" in text or "random starts came to" in text


def test_particles_keep_every_other_column_and_hold_the_poses_found(whole, folder):
    given, kept = (read_star(path / "particles.star")["particles"] for path in (folder, whole.path))
    assert list(kept.columns) == list(given.columns) and len(kept) == N
    posed = {*ANGLES, *ORIGINS}
    for column in given.columns:
        assert (kept[column] == given[column]).all() == (column not in posed), column
    written = read_particles(whole.path / "particles.star", check_images=False).pose
    assert written is not None
    assert float(rotation_distance_deg(written.rotation, poses_of(whole).rotation).max()) < 0.1
    torch.testing.assert_close(written.shift_A, poses_of(whole).shift_A, atol=1e-3, rtol=0)


def test_half_maps_agree_better_from_round_to_round(whole):
    told = [row for row in rows(whole) if row["stage"] in ("search", "refine")]
    assert told[0]["stage"] == "search" and told[-1]["stage"] == "refine"
    assert told[-1]["images"] == N
    assert told[-1]["resolution_A"] <= told[0]["resolution_A"]
    assert "turned_deg" not in told[0] and told[-1]["turned_deg"] < 10


def scrambled(folder: Path, path: Path, *, dropped: bool) -> Path:
    """The same particles with poses at random, or without."""
    blocks = read_star(folder / "particles.star")
    table = blocks["particles"]
    if dropped:
        table = table.drop(columns=[*ANGLES, *ORIGINS])
    else:
        rng = np.random.default_rng(0)
        for name in ANGLES:
            table[name] = [f"{value:.3f}" for value in rng.uniform(0, 180, len(table))]
        for name in ORIGINS:
            table[name] = [f"{value:.3f}" for value in rng.normal(0, 30, len(table))]
    write_star(path, blocks | {"particles": table})
    return path


@pytest.mark.slow
@pytest.mark.parametrize("dropped", [False, True])
def test_given_poses_are_not_looked_at(whole, config, folder, tmp_path, dropped):
    """The identical result from particles whose poses are wrong; and from those that have none, poses all the same."""
    path = scrambled(folder, tmp_path / "other.star", dropped=dropped)
    asked = replace(config, particles=path, output=tmp_path / "run", images=ImageSource(datadir=folder))
    run = find_poses(asked)
    assert_same(run, whole)
    kept = read_star(run.path / "particles.star" if not dropped else run.path / run.given_store().manifest.metadata)
    assert {*ANGLES, *ORIGINS} <= {*kept["particles"].columns}


class Stop:
    """Interrupts a run when a stage has been recorded so many times."""

    def __init__(self, stage: str, times: int) -> None:
        self.stage, self.left, self.record = stage, times, RunFolder.record

    def __call__(self, run: RunFolder, **values: object) -> None:
        self.record(run, **values)
        self.left -= values["stage"] == self.stage
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_killed_after_a_start_a_search_and_a_refinement_and_resumed_ends_the_same(whole, config, tmp_path):
    """One run that is interrupted three times; what was done is not done again."""
    asked = replace(config, output=tmp_path / "run")
    for number, times in enumerate((1, 2, 2)):
        left = iter(range(times - 1, -1, -1))

        def save(path, tensors, left=left, **facts):
            save_tensors(path, tensors, **facts)
            if next(left) == 0:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            for stage in (random_starts, abinit_rounds):
                patch.setattr(stage, "save_tensors", save)
            with pytest.raises(KeyboardInterrupt):
                find_poses(replace(asked, resume=number > 0))
        assert not RunFolder(asked.output).is_complete
    run = find_poses(replace(asked, resume=True))
    assert_same(run, whole)
    said = (run.path / "run.log").read_text()
    assert "resumed after random start 1" in said and "resumed after round 1" in said
    for stage, name in (("start-done", "start"), ("search", "step"), ("refine", "step")):
        done, expected = ([row[name] for row in rows(each) if row["stage"] == stage] for each in (run, whole))
        assert done == expected
    write_abinit_report(run)


def test_a_complete_run_is_left_alone(whole, config, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run", symlinks=True)
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    run = find_poses(replace(config, output=tmp_path / "run", resume=True))
    assert (run.path / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="is resumed with"):
        find_poses(replace(config, output=tmp_path / "run", seed=5, resume=True))


def test_poses_are_found_and_a_linear_subspace_is_fitted_where_components_are_asked_for(
    config, tmp_path, true, monkeypatch
):
    """Of particles that do not move: they are found as well among maps that could."""
    for name, value in {"LATENT_SEARCHES": 0, "LATENT_BEAMS": 24, "MARGINAL_BEAMS": 8}.items():
        monkeypatch.setattr(abinit_rounds, name, value)
    for stage in (abinit, abinit_rounds):
        monkeypatch.setattr(stage, "LinearConfig", partial(LinearConfig, iterations=1, final_iterations=1))
    run = find_poses(replace(config, output=tmp_path / "run", starts=1, zdim=1, search_rounds=1))
    errors = compare_poses(poses_of(run), true).errors
    assert float(errors.rotation_deg.median()) < 5 and float(errors.shift_A.median()) < 0.2 * PIXEL_A
    assert run.latent_mean().shape == run.latent_std().shape == (N, 1)
    assert run.model_tensors()["maps"].shape[0] == 2
    assert {"variance", "reproducibility"} <= run.model_tensors().keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"starts": 0}, "--starts 0: expected 1 or more"),
        ({"starts": 51}, "--starts 51: expected 50 at most"),
        ({"start_images": 199}, "--start-images 199: expected 200 or more"),
        ({"start_radius": 3}, "--start-radius 3: expected 4 or more"),
        ({"search_radius": 3}, "--search-radius 3: expected 4 or more"),
        ({"search_rounds": 0}, "--search-rounds 0: expected 1 or more"),
        ({"polish_rounds": -1}, "--polish-rounds -1: expected 0 or more"),
        ({"zdim": -1}, "--zdim -1: expected 0 or more"),
        ({"zdim": 5}, "--zdim 5: expected 4 at most"),
        ({"shift_range": -0.1}, "--shift-range -0.1: expected 0 or more"),
        ({"shift_range": 0.26}, "--shift-range 0.26: expected 0.25 at most"),
        ({"shift_range": float("nan")}, "--shift-range nan: expected 0 or more"),
        ({"seed": -1}, "--seed -1: expected 0"),
        ({"device": "abacus"}, "--device abacus"),
        ({"particles": Path("gone.star")}, "gone.star: no such particle file or store"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_written(config, tmp_path, changes, said):
    with pytest.raises(InputError, match=f"^{re.escape(said)}"):
        find_poses(replace(config, output=tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_too_few_particles_are_refused_and_leave_nothing(config, tmp_path):
    (tmp_path / "few.txt").write_text("\n".join(map(str, range(199))))
    asked = replace(config, output=tmp_path / "run", images=ImageSource(index=tmp_path / "few.txt"))
    with pytest.raises(InputError, match="199 particles are too few to find their poses: give at least 200"):
        find_poses(asked)
    assert not (tmp_path / "run").exists()


ASKED = AbinitConfig(Path("some.star"), Path("run"), search_radius=20, search_rounds=3, polish_rounds=3)
SEARCHES = [Step("search", 10, False, 8.0), Step("search", 14, False, 12.0), Step("search", 20, True, 18.0)]


def refined(*reach: float) -> list[Step]:
    return [*SEARCHES, *(Step("refine", 24, True, each) for each in reach)]


@pytest.mark.parametrize(
    ("done", "agreed", "expected"),
    [
        # a search over what is trusted, of some particles while that is less than the widest band
        ([], 10, ("search", 10, False)),
        (SEARCHES[:1], 14, ("search", 14, False)),
        (SEARCHES[:1], 25, ("search", 20, True)),
        # the last search is of all particles, however narrow
        (SEARCHES[:2], 12, ("search", 12, True)),
        # never below the first band
        ([], 1, ("search", 4, False)),
        # then refinements beyond what half maps agree on, within the box
        (SEARCHES, 18, ("refine", 20, True)),
        (SEARCHES, 31, ("refine", 32, True)),
        # while they gain
        (refined(18.04), 20, None),
        (refined(18.06), 20, ("refine", 22, True)),
        (refined(18.5, 18.52), 20, None),
        (refined(18.5, 19.0), 20, ("refine", 22, True)),
        (refined(18.5, 19.0, 20.0), 20, None),
    ],
)
def test_what_comes_next(done, agreed, expected):
    step = next_step(done, agreed, ASKED, box=64)
    assert (None if step is None else (step.kind, step.radius, step.whole)) == expected


def test_where_there_are_components_all_particles_are_searched_some_more_times():
    done = list(SEARCHES)
    for _ in range(abinit_rounds.LATENT_SEARCHES):
        done.append(next_step(done, 18, replace(ASKED, zdim=2), box=64))
        assert done[-1] == Step("search", 18, True)
    assert next_step(done, 18, replace(ASKED, zdim=2), box=64) == Step("refine", 20, True)


def test_a_small_box_bounds_the_bands():
    assert next_step([], 30, ASKED, box=32) == Step("search", 15, False)  # of a random start: another follows
    assert next_step([Step("search", 15, False)], 15, ASKED, box=32) == Step("search", 15, True)
    assert next_step([Step("search", 15, True, 9.0)], 15, ASKED, box=32) == Step("refine", 16, True)
    assert next_step([Step("search", 15, True, 9.0)], 15, replace(ASKED, polish_rounds=0), box=32) is None
    assert next_step([], 6, replace(ASKED, search_rounds=1), box=64) == Step("search", 6, True)


def starts_of(*maps: torch.Tensor) -> RandomStarts:
    """RandomStarts of which the first explains most."""
    likelihood = torch.arange(len(maps), 0, -1).float()
    return RandomStarts(torch.stack(maps)[:, None], torch.ones(len(maps), 9), likelihood)


@pytest.fixture(scope="module")
def molecule() -> torch.Tensor:
    return torch.from_numpy(map_of(rigid().centred().clouds[0], Grid(16, 13.0, 7.0)))


def test_turned_moved_and_mirrored_copies_agree(molecule):
    """Whatever their scale; another molecule does not."""
    turn = random_rotations(1, torch.Generator().manual_seed(0))[0].double()
    copy = moved_map(molecule, turn, torch.tensor([0.7, -0.3, 1.0], dtype=torch.float64))
    other = torch.from_numpy(map_of(eight_state().centred().clouds[5], Grid(16, 13.0, 7.0)))
    found = starts_of(molecule, 2 * copy, mirror(copy), other)
    shared = found.shared
    assert shared[0] == 1.0 and min(shared[1:3]) >= 0.8 and shared[3] < 0.6
    assert found.best == 0 and found.agreeing == 3


def test_the_best_start_is_the_one_that_explains_most(molecule):
    found = replace(starts_of(molecule, molecule, molecule), likelihood=torch.tensor([3.0, 9.0, 5.0]))
    assert found.best == 1


def test_a_start_that_explains_nothing_is_said(config, tmp_path, monkeypatch):
    monkeypatch.setattr(random_starts, "held_out_log_likelihood", lambda *args, **options: 0.01)
    told: list[str] = []
    monkeypatch.setattr(RunFolder, "warn", lambda self, text: told.append(text))
    monkeypatch.setattr(abinit, "rounds_stage", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        find_poses(replace(config, output=tmp_path / "run", starts=1))
    assert "no better than noise" in "".join(told)


@pytest.mark.slow
def test_more_starts_are_made_while_none_agree_and_then_it_is_said(config, tmp_path, monkeypatch):
    """Twice as many as asked, and a warning; a run that is cut there goes on."""
    alone = property(lambda self: [float(number == self.best) for number in range(len(self.maps))])
    monkeypatch.setattr(RandomStarts, "shared", alone)
    asked, stop = replace(config, output=tmp_path / "run"), Stop("starts", 1)
    told: list[str] = []
    monkeypatch.setattr(RunFolder, "warn", lambda self, text: told.append(text))
    monkeypatch.setattr(RunFolder, "record", lambda self, **values: stop(self, **values))
    monkeypatch.setattr(abinit, "rounds_stage", lambda *args, **options: pytest.fail("it was not stopped"))
    with pytest.raises(KeyboardInterrupt):
        find_poses(asked)
    assert sum(row["stage"] == "start-done" for row in rows(RunFolder(asked.output))) == 4
    monkeypatch.setattr(RunFolder, "record", stop.record)
    monkeypatch.setattr(abinit, "rounds_stage", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        find_poses(replace(asked, resume=True))
    assert len(told) == 1 and "no two random starts agree" in told[0]


def test_one_start_is_enough_where_one_is_asked_for(config, tmp_path, monkeypatch):
    asked, stop = replace(config, output=tmp_path / "run", starts=1), Stop("starts", 1)
    monkeypatch.setattr(RunFolder, "record", lambda self, **values: stop(self, **values))
    with pytest.raises(KeyboardInterrupt):
        find_poses(asked)
    records = rows(RunFolder(asked.output))
    assert sum(row["stage"] == "start-done" for row in records) == 1
    assert records[-1]["shared"] == [1.0] and records[-1]["best"] == 0
