"""The linear method end to end: from a particle file to a complete run, refused, interrupted, resumed."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.commands.train import train
from cryomorph.config.errors import InputError
from cryomorph.config.linear import LinearConfig
from cryomorph.config.prepare import ImageSource
from cryomorph.io.mrc import write_map
from cryomorph.io.star import read_star, write_star
from cryomorph.particles.metadata import read_particles
from cryomorph.particles.prepare import prepare
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.folder import RunFolder
from cryomorph.training.stages.linear import heterogeneity_mask

ALWAYS = {
    "config.json",
    "provenance.json",
    "run.log",
    "metrics.jsonl",
    "particles",
    "particles.star",
    "model.safetensors",
    "checkpoints",
    "latent_mean.npy",
    "latent_std.npy",
    "latent_split.npy",
    "log_likelihood.npy",
    "contrast.npy",
    "refined_poses.safetensors",
    "noise.safetensors",
    "consensus",
    "corrected_consensus",
}


FREE = {"contrast.npy", "refined_poses.safetensors"}
"""What is there unless contrasts and poses are taken as given."""


@pytest.fixture(scope="module")
def store(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of its own of the tiny set."""
    folder = tmp_path_factory.mktemp("store") / "store"
    prepare(read_particles(tiny_set / "particles.star"), folder)
    return folder


@pytest.fixture(scope="module")
def config(store: Path) -> LinearConfig:
    """The shortest fit, from the store; the output is to be replaced."""
    return LinearConfig(store, Path("nowhere"), zdim=2, iterations=1, final_iterations=2, seed=1)


@pytest.fixture(scope="module")
def whole(config: LinearConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The fit of `config`, uninterrupted."""
    return train(replace(config, output=tmp_path_factory.mktemp("whole") / "run"))


def rows(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_holds_what_the_design_says(tiny_run, tiny_set):
    run = tiny_run
    assert {path.name for path in run.path.iterdir()} == ALWAYS - FREE
    assert RunFolder.open(run.path).is_complete
    n = len(np.load(tiny_set / "truth.npz")["label"])
    assert run.latent_mean().shape == run.latent_std().shape == (n, 2)
    assert (run.latent_std() > 0).all()
    assert run.config()["method"] == "linear"
    assert run.config()["particles"] == str(tiny_set / "particles.star")
    assert not {"output", "resume", "overwrite"} & run.config().keys()
    tensors = run.model_tensors()
    assert tensors["maps"].shape == (3, 16, 16, 16)
    assert tensors["variance"].shape == tensors["reproducibility"].shape == (2,)
    assert "half sets agree on" in (run.path / "run.log").read_text()


def test_the_run_s_particles_keep_every_column(tiny_run, tiny_set):
    given, kept = (read_star(folder / "particles.star")["particles"] for folder in (tiny_set, tiny_run.path))
    assert list(kept.columns) == list(given.columns)
    assert len(kept) == len(given)
    posed = {name for name in given.columns if name.startswith(("rlnAngle", "rlnOrigin"))}
    assert all((kept[name] == given[name]).all() for name in given.columns if name not in posed)


def test_given_poses_are_kept_where_that_is_asked(tiny_set, config, tmp_path):
    run = train(replace(config, output=tmp_path / "run", fix_poses=True, contrast=False, iterations=1))
    given, kept = (read_star(folder / "particles.star")["particles"] for folder in (tiny_set, run.path))
    assert (kept["rlnAngleRot"] == given["rlnAngleRot"]).all()
    assert {path.name for path in run.path.iterdir()} == ALWAYS - FREE


def test_the_latent_knows_the_hinge(tiny_run, tiny_set):
    coord = np.load(tiny_set / "truth.npz")["coord"]
    z = tiny_run.latent_mean().astype(float)
    design = np.c_[np.ones(len(z)), z, z**2]
    predicted = design @ np.linalg.lstsq(design, coord, rcond=None)[0]
    assert np.corrcoef(predicted, coord)[0, 1] > 0.9


def test_metrics_tell_every_step(tiny_run):
    halves = [row for row in rows(tiny_run.path) if row["stage"] == "linear-halves"]
    final = [row for row in rows(tiny_run.path) if row["stage"] == "linear"]
    assert [row["step"] for row in halves] == list(range(1, len(halves) + 1))
    assert [row["step"] for row in final] == [1, 2, 3, 4]
    likelihood = np.array([row["log_likelihood"] for row in final], dtype=float)
    assert (np.diff(likelihood) > -0.1).all()


def test_scale_and_sign_of_the_decoded_maps(tiny_run):
    """METHODS 0: the best scalar between images and model within 0.8 to 1.2, and maps that are positive."""
    run_store = tiny_run.store()
    batch = run_store.batch(torch.arange(400))
    z = torch.from_numpy(tiny_run.latent_mean())
    model = tiny_run.representation().slices(z, batch.rotation, run_store.disk) * batch.ctf
    image, shown = (torch.view_as_real(part).flatten().double() for part in (batch.image, model))
    assert 0.8 < float(image @ shown / (shown @ shown)) < 1.2
    consensus, decoded = tiny_run.consensus_map(), tiny_run.representation().volume(z.mean(0), 16)
    assert np.corrcoef(consensus.flatten(), decoded.flatten())[0, 1] > 0.9


def test_a_store_is_linked_and_not_copied(whole, store):
    assert whole.store_path.is_symlink()
    assert whole.store_path.resolve() == store.resolve()
    assert len(whole.store()) == 400
    assert {path.name for path in whole.path.iterdir()} == ALWAYS


def test_the_same_seed_gives_the_same_numbers(whole, config, tmp_path):
    again = train(replace(config, output=tmp_path / "again"))
    np.testing.assert_array_equal(again.latent_mean(), whole.latent_mean())
    np.testing.assert_array_equal(again.latent_std(), whole.latent_std())
    assert (again.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    other = train(replace(config, output=tmp_path / "other", seed=2))
    assert not np.array_equal(other.latent_mean(), whole.latent_mean())


@pytest.mark.parametrize("after", [1, 4, 5, 6])
def test_killed_in_the_middle_and_resumed_ends_the_same(whole, config, tmp_path, monkeypatch, after):
    """Stopped after so many recorded steps: four of the half sets, two of all particles."""
    assert len(rows(whole.path)) == 6
    interrupted = replace(config, output=tmp_path / "run")
    real, count = RunFolder.record, 0

    def stop(self: RunFolder, **values: float | int | str) -> None:
        nonlocal count
        real(self, **values)
        count += 1
        if count == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "record", stop)
    with pytest.raises(KeyboardInterrupt):
        train(interrupted)
    monkeypatch.undo()
    assert not RunFolder(tmp_path / "run").is_complete
    run = train(replace(interrupted, resume=True))
    np.testing.assert_array_equal(run.latent_mean(), whole.latent_mean())
    np.testing.assert_array_equal(run.latent_std(), whole.latent_std())
    for name, tensor in whole.model_tensors().items():
        assert torch.equal(run.model_tensors()[name], tensor), name
    assert "resumed after step" in (run.path / "run.log").read_text()
    # a step that was done again is told again, with the same outcome
    told = {(row["stage"], row["step"]): row["log_likelihood"] for row in rows(run.path)}
    assert told == {(row["stage"], row["step"]): row["log_likelihood"] for row in rows(whole.path)}


def test_killed_by_the_system_and_resumed_ends_the_same(whole, config, tmp_path):
    """SIGKILL, from outside, as soon as the first checkpoint is there."""
    code = (
        "import os, signal, sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from cryomorph.config.linear import LinearConfig\n"
        "from cryomorph.runs.folder import RunFolder\n"
        "from cryomorph.commands.train import train\n"
        "def hang(self, **values):\n"
        "    Path(sys.argv[2] + '.ready').touch()\n"
        "    signal.pause()\n"
        "RunFolder.record = hang\n"
        "options = {'zdim': 2, 'iterations': 1, 'final_iterations': 2, 'seed': 1}\n"
        "train(LinearConfig(Path(sys.argv[1]), Path(sys.argv[2]), **options))\n"
    )
    output = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", code, str(config.particles), str(output)]) as child:
        ready, begin = tmp_path / "run.ready", time.monotonic()
        while not ready.exists() and child.poll() is None and time.monotonic() - begin < 60:
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    run = train(replace(config, output=output, resume=True))
    np.testing.assert_array_equal(run.latent_mean(), whole.latent_mean())


def test_killed_while_preparing_is_taken_up_again(tiny_set, tiny_run, tmp_path, monkeypatch):
    fixed = {"contrast": False, "fix_poses": True}
    asked = LinearConfig(tiny_set / "particles.star", tmp_path / "run", zdim=2, iterations=2, seed=1, **fixed)

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cryomorph.particles.prepare._write_metadata", stop)
    with pytest.raises(KeyboardInterrupt):
        train(asked)
    monkeypatch.undo()
    run = train(replace(asked, resume=True))
    np.testing.assert_array_equal(run.latent_mean(), tiny_run.latent_mean())
    assert {path.name for path in run.path.iterdir()} == ALWAYS - FREE


def test_resume_of_a_complete_run_does_nothing(whole, config, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run", symlinks=True)
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    run = train(replace(config, output=tmp_path / "run", resume=True))
    assert (run.path / "model.safetensors").stat().st_mtime_ns == before
    assert "complete already" in (run.path / "run.log").read_text()


def test_resume_with_other_options_is_refused(whole, config):
    said = re.escape("was started with zdim = 2 and is resumed with 3")
    with pytest.raises(InputError, match=said):
        train(replace(config, output=whole.path, zdim=3, resume=True))
    with pytest.raises(InputError, match=r"was started with images\.box = None and is resumed with 12"):
        train(replace(config, output=whole.path, images=ImageSource(box=12), resume=True))
    with pytest.raises(InputError, match="holds a run: --resume goes on with it, --overwrite replaces it"):
        train(replace(config, output=whole.path))


def test_a_damaged_checkpoint_is_said(config, tmp_path, monkeypatch):
    asked = replace(config, output=tmp_path / "run")

    def stop(self: RunFolder, **values: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "record", stop)
    with pytest.raises(KeyboardInterrupt):
        train(asked)
    monkeypatch.undo()
    (tmp_path / "run" / "checkpoints" / "linear.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"\.safetensors cannot be read \("):
        train(replace(asked, resume=True))


def test_overwrite_makes_the_run_again(config, tmp_path):
    output = tmp_path / "run"
    train(replace(config, output=output, zdim=1))
    run = train(replace(config, output=output, zdim=3, overwrite=True))
    assert run.latent_mean().shape == (400, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"zdim": 0}, "--zdim 0: expected 1 to 20"),
        ({"zdim": 21}, "--zdim 21: expected 1 to 20"),
        ({"iterations": 0}, "--iterations 0: expected 1 or more"),
        ({"final_iterations": 0}, "--final-iterations 0: expected 1 or more"),
        ({"max_radius": 5}, "--max-radius 5: expected 6 or more"),
        ({"seed": -1}, "--seed -1: expected 0 to 2147483647"),
        ({"recipe": "paper"}, "--recipe paper: the method linear has only default"),
        ({"mask": "gone.mrc"}, "--mask gone.mrc: no such file; expected a mask file, auto or sphere"),
        ({"particles": Path("gone.star")}, "gone.star: no such particle file or store"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_written(config, tmp_path, changes, said):
    with pytest.raises(InputError, match=f"^{re.escape(said)}"):
        train(replace(config, output=tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_run_that_could_not_start_leaves_nothing(tiny_set, config, tmp_path):
    output = tmp_path / "run"
    asked = replace(config, output=output, particles=tiny_set / "particles.star")
    with pytest.raises(InputError, match="--box 15"):
        train(replace(asked, images=ImageSource(box=15)))
    assert not output.exists()
    with pytest.raises(InputError, match="is not a particle store"):
        train(replace(asked, particles=tmp_path))
    assert not output.exists()


def test_options_for_reading_images_do_not_go_with_a_store(config, tmp_path):
    images = ImageSource(box=12, skip_bad=True)
    with pytest.raises(InputError, match="is a store, prepared already: omit --box, --skip-bad"):
        train(replace(config, output=tmp_path / "run", images=images))
    assert not (tmp_path / "run").exists()


def test_particles_without_poses_are_refused(tiny_set, config, tmp_path):
    blocks = read_star(tiny_set / "particles.star")
    angles = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    blocks["particles"] = blocks["particles"].drop(columns=angles)
    write_star(tmp_path / "blind.star", blocks)
    images = ImageSource(datadir=tiny_set)
    with pytest.raises(InputError, match="no orientations"):
        train(replace(config, particles=tmp_path / "blind.star", images=images, output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_too_few_particles_are_refused(tiny_set, config, tmp_path):
    (tmp_path / "few.txt").write_text("\n".join(map(str, range(24))))
    images = ImageSource(index=tmp_path / "few.txt")
    asked = replace(config, particles=tiny_set / "particles.star", output=tmp_path / "run", images=images)
    with pytest.raises(InputError, match="24 particles are too few for --zdim 13"):
        train(replace(asked, zdim=13))
    assert not (tmp_path / "run").exists()
    assert train(replace(asked, zdim=1)).latent_mean().shape == (24, 1)


def test_overwrite_does_not_remove_the_particles_it_was_given(tiny_run, config, tmp_path):
    shutil.copytree(tiny_run.path, tmp_path / "run")
    inside = tmp_path / "run" / "particles"
    with pytest.raises(InputError, match="give another -o"):
        train(replace(config, particles=inside, output=tmp_path / "run", overwrite=True))
    assert len(ParticleStore.open(inside)) == 400


def test_contrast_and_poses_are_written(whole):
    run = whole
    assert run.has_refined_poses and run.store().contrast is not None
    contrast = np.load(run.path / "contrast.npy", allow_pickle=False)
    assert contrast.shape == (400,)
    assert 0.85 < contrast.mean() < 1.15


def test_a_smaller_band_makes_smaller_maps(config, tmp_path):
    run = train(replace(config, output=tmp_path / "run", max_radius=6))
    assert run.model_tensors()["maps"].shape == (3, 12, 12, 12)
    assert run.representation().volume(torch.zeros(2), 16).shape == (16, 16, 16)


def test_masks_of_every_kind(tiny_run, tmp_path):
    consensus = tiny_run.consensus_map()
    sphere, auto = (heterogeneity_mask(asked, consensus, 16.0) for asked in ("sphere", "auto"))
    assert float(sphere[8, 8, 8]) == 1
    assert float(sphere[0].max()) == 0
    assert bool((auto <= sphere + 1e-6).all())
    # all that is dense lies inside
    assert float(auto[(consensus > 0.25 * consensus.max()) & (sphere == 1)].min()) > 0.99
    write_map(tmp_path / "mask.mrc", sphere.numpy(), 16.0)
    assert torch.equal(heterogeneity_mask(str(tmp_path / "mask.mrc"), consensus, 16.0), sphere)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (
            np.ones((6, 6, 6)),
            "has 6 voxels a side of 16 A, the working box has 16 of 16 A: expected about",
        ),
        (np.full((16, 16, 16), 2.0), "has values from 2 to 2, expected a mask from 0 to 1"),
        (np.full((16, 16, 16), -0.5), "has values from -0.5 to -0.5, expected a mask from 0 to 1"),
        (np.zeros((16, 16, 16)), "has values from 0 to 0, expected a mask from 0 to 1"),
        (np.full((16, 16, 16), np.nan), "has values from nan to nan, expected a mask from 0 to 1"),
    ],
)
def test_masks_that_are_none_are_refused(tiny_run, tmp_path, mask, said):
    write_map(tmp_path / "mask.mrc", mask.astype(np.float32), 16.0)
    with pytest.raises(InputError, match=re.escape(said)):
        heterogeneity_mask(str(tmp_path / "mask.mrc"), tiny_run.consensus_map(), 16.0)


def test_a_wrong_mask_neither_starts_nor_replaces_a_run(whole, config, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run", symlinks=True)
    write_map(tmp_path / "mask.mrc", np.ones((8, 8, 8), np.float32), 1.0)
    with pytest.raises(InputError, match="the working box has 16 of 16 A"):
        train(replace(config, output=tmp_path / "run", overwrite=True, mask=str(tmp_path / "mask.mrc")))
    assert RunFolder.open(tmp_path / "run").latent_mean().shape == whole.latent_mean().shape
    inside = str(tmp_path / "run" / "consensus" / "mask.mrc")
    with pytest.raises(InputError, match="copy it elsewhere first"):
        train(replace(config, output=tmp_path / "run", overwrite=True, mask=inside))
