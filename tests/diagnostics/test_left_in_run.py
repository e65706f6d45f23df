"""What other commands left in a run: read back as it is, and not used where it is not of this model."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.analysis.comparison import ComparisonSummary
from cryomorph.analysis.landscape.files import LandscapeSummary
from cryomorph.cli.main import main
from cryomorph.commands.landscape import landscape
from cryomorph.config.landscape import LandscapeConfig
from cryomorph.diagnostics.left_in_run import Absent, read_comparison, read_landscape
from cryomorph.io.mrc import read_map
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.snapshot import Snapshot


@pytest.fixture(scope="module", autouse=True)
def small_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryomorph.render.map_renderer.SIZE", 24)
        patch.setattr("cryomorph.report.landscape.states.SIZE", 24)
        patch.setattr("cryomorph.report.landscape.volume_space.SIZE", 24)
        yield


@pytest.fixture(scope="module")
def mapped_run(tiny_run, tmp_path_factory) -> RunFolder:
    """The tiny run with a landscape of three states, of the other hand."""
    path = tmp_path_factory.mktemp("left") / "run"
    shutil.copytree(tiny_run.path, path)
    config = LandscapeConfig(path, sketch=40, states=3, trajectories=0, pc_points=2, umap=False, device="cpu")
    landscape(replace(config, flip_hand=True))
    return RunFolder.open(path)


@pytest.fixture
def run(mapped_run, tmp_path) -> RunFolder:
    shutil.copytree(mapped_run.path, tmp_path / "run", symlinks=True)
    return RunFolder.open(tmp_path / "run")


def told(found: object) -> Absent:
    assert isinstance(found, Absent)
    return found


def later(path: Path, other: float, seconds: float) -> None:
    os.utime(path, (other + seconds, other + seconds))


def test_a_landscape_is_read_as_it_was_written(mapped_run):
    found = read_landscape(mapped_run)
    assert isinstance(found, LandscapeSummary)
    folder = mapped_run.path / "landscape"
    np.testing.assert_array_equal(found.states, np.load(folder / "states.npy"))
    facts = json.loads((folder / "landscape.json").read_text())
    assert found.particles == [row["particles"] for row in facts["states"]]
    assert list(found.sketch) == [row["maps"] for row in facts["states"]] and sum(found.sketch) == 40
    assert (found.count, found.pixel_A, found.r2) == (3, 16.0, facts["r2"])


def test_mirrored_maps_are_turned_back(mapped_run):
    """The maps on disk are mirror images of the model's: those that are read are not."""
    found = read_landscape(mapped_run)
    assert isinstance(found, LandscapeSummary)
    sketch = np.loadtxt(mapped_run.path / "landscape" / "sketch.txt", dtype=int)
    own = mapped_run.latent_mean()[sketch[np.load(mapped_run.path / "landscape" / "sketch_states.npy") == 0]]
    model = mapped_run.representation().maps.numpy()
    expected = (model[0] + np.tensordot(own, model[1:], 1)).mean(0)
    on_disk = read_map(mapped_run.path / "landscape" / "states" / "state_0.mrc")[0]
    inside = found.means[0].numpy() != 0
    assert np.corrcoef(found.means[0].numpy()[inside], expected[inside])[0, 1] > 0.9999
    assert np.corrcoef(on_disk[inside], expected[inside])[0, 1] < 0.99


def test_without_a_landscape_the_command_is_told(tiny_run):
    note = told(read_landscape(tiny_run))
    assert note.verdict == "info"
    assert f"`cryomorph landscape {tiny_run.path}`" in note.reason


def test_a_landscape_older_than_the_model_is_not_used(run):
    later(run.path / "landscape" / "landscape.json", run.model_time, -1)
    note = told(read_landscape(run))
    assert note.verdict == "warning"
    assert "is older than the model and was not used" in note.reason
    later(run.path / "landscape" / "landscape.json", run.model_time, 1)
    assert isinstance(read_landscape(run), LandscapeSummary)


def test_a_model_in_training_is_as_old_as_its_last_checkpoint(run):
    (run.path / "checkpoints").mkdir(exist_ok=True)
    for old in (run.path / "checkpoints").iterdir():
        old.unlink()
    for epoch in (1, 2):
        (run.path / "checkpoints" / f"epoch-{epoch:04d}.safetensors").touch()
        later(run.path / "checkpoints" / f"epoch-{epoch:04d}.safetensors", 1e9, epoch)
    snapshot = Snapshot("the last", {}, {}, torch.zeros(400, 2), torch.ones(400, 2), None)
    assert replace(run, snapshot=snapshot).model_time == 1e9 + 2


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda folder: change(folder / "landscape.json", particles=399),
            "is of 399 particles, and the run has 400",
        ),
        (lambda folder: np.save(folder / "states.npy", np.zeros(5, dtype=int)), "states.npy"),
        (lambda folder: (folder / "states" / "state_1.mrc").unlink(), "state_1.mrc"),
        (lambda folder: (folder / "landscape.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "landscape.json").write_text('{"particles": 400}'), "states"),
    ],
)
def test_a_landscape_that_does_not_fit_is_not_used(run, spoil, said):
    spoil(run.path / "landscape")
    note = told(read_landscape(run))
    assert note.verdict == "warning" and said in note.reason and "make it again" in note.reason


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_comparison_that_compare_left_is_read(run, tiny_run, capsys):
    argv = ["compare", run.path, tiny_run.path, "-o", run.path / "compare", "--clusters", "3", "--points", "2"]
    assert main([str(word) for word in argv]) == 0
    found = read_comparison(run)
    assert isinstance(found, ComparisonSummary)
    facts = json.loads((run.path / "compare" / "compare.json").read_text())
    assert found.r2 == (facts["latent_r2"]["b_from_a"], facts["latent_r2"]["a_from_b"])
    assert found.same_points  # a run and its copy
    assert found.maps is not None and (found.maps.points, found.counts) == (2, (400, 400))
    assert (found.maps.mean_fsc, found.maps.others_mean_fsc) == (
        facts["maps"]["mean_fsc"],
        facts["maps"]["others_mean_fsc"],
    )
    assert found.maps.matched == facts["maps"]["nearest_is_the_same_particle"]
    assert (found.clusters, found.ceiling) == tuple(
        facts[name]["agreement"] for name in ("kmeans", "kmeans_same_run_other_seed")
    )
    assert found.turn_deg == facts["pose_turn_deg"]
    change(run.path / "compare" / "compare.json", particles_a=7, particles_b=8)
    assert "not about this run's 400 particles" in told(read_comparison(run)).reason
    later(run.path / "compare" / "compare.json", run.model_time, -1)
    note = told(read_comparison(run))
    assert note.verdict == "missing" and "is older than the model" in note.reason


def test_without_a_comparison_the_command_is_told(run):
    note = told(read_comparison(run))
    assert note.verdict == "missing"
    assert f"`cryomorph compare {run.path} OTHER_RUN -o {run.path / 'compare'}`" in note.reason
    (run.path / "compare").mkdir()
    (run.path / "compare" / "compare.json").write_text("{}")
    assert "cannot be read" in told(read_comparison(run)).reason
