"""The neural field end to end: recipes to complete runs, the same for the same seed, refused, killed, resumed."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.commands.train import train
from cryomorph.compute.distributed import Parallel
from cryomorph.config.errors import InputError
from cryomorph.config.neural_field import NetworkConfig, NeuralFieldConfig, neural_field_by_recipe
from cryomorph.config.training import TrainingConfig
from cryomorph.io.mrc import write_map
from cryomorph.methods.neural_field import NEURAL_FIELD, resolve
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.folder import RunFolder, checkpoints
from cryomorph.training import loop
from cryomorph.training.linear_start import LinearStart
from cryomorph.training.session import Session
from cryomorph.training.stages import encode, joint
from cryomorph.training.trainer import Trainer

# what trains here is trained with the checks of shapes in training/test_shared_options.py
pytestmark = pytest.mark.unchecked

SMALL = NetworkConfig(width=48, layers=1, feature_share=2.0)
SHORT = TrainingConfig(epochs=2, precision="float32", device="cpu", held_out=0.1, checkpoint_minutes=0.0)


@pytest.fixture(scope="module")
def config(tiny_store) -> NeuralFieldConfig:
    """The shortest training, from the store; the output is to be replaced."""
    return NeuralFieldConfig(
        tiny_store.folder,
        Path("nowhere"),
        zdim=2,
        network=SMALL,
        training=SHORT,
        warm_steps=150,
        fix_poses=True,
        contrast=False,
        seed=1,
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> RunFolder:
    """The training of `config`, uninterrupted."""
    return train(replace(config, output=tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture(scope="module")
def paper(config, tmp_path_factory) -> RunFolder:
    """One epoch of the paper's recipe."""
    training = replace(SHORT, epochs=1)
    output = tmp_path_factory.mktemp("paper") / "run"
    return train(replace(config, output=output, recipe="paper", training=training, warm_steps=None))


def stages(run: RunFolder) -> list[str]:
    return [json.loads(line)["stage"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def same(one: RunFolder, other: RunFolder) -> None:
    """The same run: latent points, model and checks, bit for bit."""
    np.testing.assert_array_equal(one.latent_mean(), other.latent_mean())
    np.testing.assert_array_equal(one.latent_std(), other.latent_std())
    assert (one.path / "checks.json").read_bytes() == (other.path / "checks.json").read_bytes()
    found, expected = one.model_tensors(), other.model_tensors()
    assert found.keys() == expected.keys() and one.model_facts() == other.model_facts()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_the_default_recipe_ends_in_a_complete_run(whole):
    assert RunFolder.open(whole.path).is_complete
    assert whole.latent_mean().shape == whole.latent_std().shape == (400, 2)
    assert np.isfinite(whole.latent_mean()).all() and (whole.latent_std() > 0).all()
    found = stages(whole)
    assert [found.index(name) for name in ("linear-halves", "linear", "joint", "epoch")] == sorted(
        found.index(name) for name in ("linear-halves", "linear", "joint", "epoch")
    )
    assert found.count("epoch") == 2
    volume = whole.representation().volume(torch.from_numpy(whole.latent_mean()).mean(0), 16)
    assert np.corrcoef(volume.numpy().ravel(), whole.consensus_map().numpy().ravel())[0, 1] > 0.8
    log = (whole.path / "run.log").read_text()
    for word in ("consensus:", "linear:", "warm start:", "joint: 2 epochs", "encode:", "done in"):
        assert word in log


def test_the_latent_of_the_default_recipe_knows_the_hinge(whole, tiny_set):
    coord = np.load(tiny_set / "truth.npz")["coord"]
    z = whole.latent_mean().astype(float)
    design = np.c_[np.ones(len(z)), z, z**2]
    predicted = design @ np.linalg.lstsq(design, coord, rcond=None)[0]
    assert np.corrcoef(predicted, coord)[0, 1] > 0.9


def test_a_run_keeps_every_choice_that_was_made_for_it(whole):
    kept = whole.config()
    assert kept["method"] == "neural-field" and kept["recipe"] == "default"
    assert kept["training"]["optimiser"] == "muon" and kept["network"]["encoder"] == "table"
    assert kept["training"]["batch_size"] == 16 and kept["linear_zdim"] == 2
    assert not {"output", "resume", "overwrite", "config"} & kept.keys()


def test_checks_of_the_model_are_written_down(whole):
    found = json.loads((whole.path / "checks.json").read_text())
    assert found.keys() == {"scale", "sign", "kl", "view_r2"}
    assert found["sign"] > 0.5 and len(found["kl"]) == 2


def test_the_paper_s_recipe_has_no_linear_stage_and_keeps_its_encoder(paper):
    assert set(stages(paper)) == {"joint", "epoch"}
    assert not (paper.path / "linear.safetensors").exists()
    tensors = paper.model_tensors()
    assert tensors["encoder.output.weight"].shape == (4, 48)
    assert torch.equal(tensors["prior_std"], torch.ones(2))
    assert not paper.representation().shape.residual
    assert paper.latent_mean().shape == (400, 2) and np.isfinite(paper.latent_mean()).all()
    log = (paper.path / "run.log").read_text()
    assert "warning:" in log  # 45 steps at 1e-4 make no model, and the run says so


def test_one_map_without_a_latent_space(config, tmp_path):
    run = train(replace(config, output=tmp_path / "run", zdim=0))
    assert run.latent_mean().shape == (400, 0)
    volume = run.representation().volume(torch.zeros(0), 16)
    assert np.corrcoef(volume.numpy().ravel(), run.consensus_map().numpy().ravel())[0, 1] > 0.8
    assert "linear" not in stages(run)


def test_a_network_as_encoder_works_in_the_default_recipe(config, tmp_path):
    run = train(replace(config, output=tmp_path / "run", network=replace(SMALL, encoder="mlp")))
    assert run.latent_mean().shape == (400, 2) and np.isfinite(run.latent_mean()).all()
    assert any(name.startswith("encoder.") for name in run.model_tensors())


@pytest.mark.parametrize("zdim", [1, 3])
def test_a_latent_space_may_have_another_dimension_than_the_linear_one(config, tmp_path, zdim):
    run = train(replace(config, output=tmp_path / "run", zdim=zdim, linear_zdim=2))
    assert run.latent_mean().shape == (400, zdim) and np.isfinite(run.latent_mean()).all()
    assert load_tensors(run.path / "linear.safetensors")[0]["mean"].shape == (400, 2)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(whole, config, tmp_path):
    same(train(replace(config, output=tmp_path / "again")), whole)
    other = train(replace(config, output=tmp_path / "other", seed=2))
    name = "network.output.weight"
    assert not torch.equal(other.model_tensors()[name], whole.model_tensors()[name])


class Killed(Exception):
    """The power went."""


@pytest.mark.parametrize("steps", [0, 5, 16])
def test_killed_in_the_joint_stage_and_resumed_ends_in_the_same_run(whole, config, tmp_path, monkeypatch, steps):
    monkeypatch.setattr(loop, "REPORT_EVERY", 2)
    step, left = Trainer.step, [steps]

    def failing(self, batch, disk):
        if not left[0]:
            raise Killed
        left[0] -= 1
        step(self, batch, disk)

    monkeypatch.setattr(Trainer, "step", failing)
    asked = replace(config, output=tmp_path / "run")
    with pytest.raises(Killed):
        train(asked)
    with pytest.raises(InputError, match=r"has no model.safetensors yet.*--resume"):
        RunFolder.open(asked.output)
    monkeypatch.setattr(Trainer, "step", step)
    same(train(replace(asked, resume=True)), whole)


def test_a_run_that_is_there_is_refused_without_resume_or_overwrite(whole, config):
    before = (whole.path / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="holds a run: --resume goes on with it, --overwrite replaces it"):
        train(replace(config, output=whole.path))
    assert (whole.path / "model.safetensors").read_bytes() == before


def test_a_complete_run_resumed_is_left_as_it_is(whole, config):
    before = (whole.path / "model.safetensors").stat().st_mtime_ns
    train(replace(config, output=whole.path, resume=True))
    assert (whole.path / "model.safetensors").stat().st_mtime_ns == before
    assert "complete already" in (whole.path / "run.log").read_text()


def test_other_options_than_the_run_s_own_cannot_resume_it(whole, config):
    with pytest.raises(InputError, match="was started with zdim = 2 and is resumed with 3"):
        train(replace(config, output=whole.path, resume=True, zdim=3, linear_zdim=2))


OUT_OF_RANGE = [
    ({}, {"zdim": -1}, "--zdim -1: expected 0 or more"),
    ({}, {"zdim": 129}, "--zdim 129: expected 128 at most"),
    ({}, {"linear_zdim": 0}, "--linear-zdim 0: expected 1 or more"),
    ({}, {"linear_zdim": 21}, "--linear-zdim 21: expected 20 at most"),
    ({}, {"warm_steps": -1}, "--warm-steps -1: expected 0 or more"),
    ({}, {"seed": -1}, "--seed -1: expected 0 to 2147483647"),
    ({}, {"mask": "none.mrc"}, "--mask none.mrc: no such file"),
    ({}, {"particles": Path("none.star")}, "none.star: no such particle file or store"),
    ({}, {"recipe": "paper", "network": NetworkConfig(encoder="table")}, "--encoder table starts from the linear"),
    ({"epochs": 0}, {}, "--epochs 0: expected 1 or more"),
    ({"batch_size": 0}, {}, "--batch-size 0: expected 1 or more"),
    ({"learning_rate": -1e-3}, {}, "--learning-rate -0.001: expected 0 or more"),
    ({"learning_rate": float("nan")}, {}, "--learning-rate nan: expected 0 or more"),
    ({"latent_rate": 1.5}, {}, "--latent-rate 1.5: expected 1 at most"),
    ({"beta": -1.0}, {}, "--beta -1.0: expected 0 or more"),
    ({"first_radius": 1.0}, {}, "--first-radius 1.0: expected 2 or more"),
    ({"radius_share": 1.1}, {}, "--radius-share 1.1: expected 1 at most"),
    ({"held_out": 0.6}, {}, "--held-out 0.6: expected 0.5 at most"),
    ({"held_out": -0.1}, {}, "--held-out -0.1: expected 0 or more"),
    ({"patience": -1}, {}, "--patience -1: expected 0 or more"),
    ({"pose_epoch": 0}, {}, "--pose-epoch 0: expected 1 or more"),
    ({"checkpoint_minutes": -1.0}, {}, "--checkpoint-minutes -1.0: expected 0 or more"),
    ({"device": "abacus"}, {}, "--device abacus: "),
]
SIZES = [
    ("width", 0),
    ("layers", 0),
    ("feature_share", 0.0),
    ("feature_sigma", 0.0),
    ("encoder_width", 0),
    ("encoder_layers", 0),
    ("encoder_radius", 1.0),
]


@pytest.mark.parametrize(("plan", "changes", "sentence"), OUT_OF_RANGE, ids=[case[2] for case in OUT_OF_RANGE])
def test_an_option_out_of_range_is_refused_in_one_sentence_and_nothing_is_left(
    config, tmp_path, plan, changes, sentence
):
    asked = replace(config, output=tmp_path / "run", training=replace(SHORT, **plan), **changes)
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}") as refused:
        train(asked)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "value"), SIZES, ids=[name for name, _ in SIZES])
def test_a_network_of_no_size_is_refused_by_the_option_s_name(config, tmp_path, name, value):
    asked = replace(config, output=tmp_path / "run", network=replace(SMALL, **{name: value}))
    with pytest.raises(InputError, match=f"^--{name.replace('_', '-')} {value}: expected .* or more$"):
        train(asked)
    assert list(tmp_path.iterdir()) == []


def test_a_seed_beyond_what_torch_can_draw_from_is_refused(config, tmp_path):
    with pytest.raises(InputError, match=r"^--seed 10{18}: expected 0 to"):
        train(replace(config, output=tmp_path / "run", seed=10**18))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("shape", "said"), [((6, 6, 6), "same field of view"), ((16, 16, 12), "expected a cube")])
def test_a_mask_that_does_not_fit_is_refused_and_nothing_is_left(config, tmp_path, shape, said):
    write_map(tmp_path / "mask.mrc", np.ones(shape, np.float32), 16.0)
    asked = replace(config, output=tmp_path / "run", mask=str(tmp_path / "mask.mrc"))
    with pytest.raises(InputError, match=f"mask.mrc has .*{said}"):
        train(asked)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.mrc"]


def test_more_dimensions_than_the_particles_can_fill_are_refused_and_nothing_is_left(config, tiny_set, tmp_path):
    from cryomorph.io.star import read_star, write_star

    blocks = read_star(tiny_set / "particles.star")
    blocks["particles"] = blocks["particles"].head(30)
    stacks = blocks["particles"]["rlnImageName"]
    blocks["particles"]["rlnImageName"] = [f"{name.split('@')[0]}@{tiny_set / 'particles.mrcs'}" for name in stacks]
    write_star(tmp_path / "few.star", blocks)
    with pytest.raises(InputError, match="30 particles are too few for --zdim 16"):
        train(replace(config, output=tmp_path / "run", particles=tmp_path / "few.star", zdim=16))
    assert [path.name for path in tmp_path.iterdir()] == ["few.star"]


def test_a_run_to_be_replaced_is_put_back_when_the_new_one_cannot_start(whole, config, tmp_path):
    import shutil

    kept = tmp_path / "run"
    shutil.copytree(whole.path, kept, symlinks=True)
    write_map(tmp_path / "mask.mrc", np.full((16, 16, 16), 2.0, np.float32), 16.0)
    with pytest.raises(InputError, match="expected a mask from 0 to 1"):
        train(replace(config, output=kept, overwrite=True, mask=str(tmp_path / "mask.mrc")))
    same(RunFolder.open(kept), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask.mrc", "run"]


@pytest.mark.parametrize("recipe", ["whole", "paper"])
def test_a_run_that_is_still_training_is_read_at_its_last_checkpoint(recipe, request, tmp_path, capsys):
    """A finished run without its last files is one that was killed after its last epoch: the same model."""
    run = request.getfixturevalue(recipe)
    cut = tmp_path / "run"
    shutil.copytree(run.path, cut, symlinks=True)
    for name in ("model.safetensors", "latent_mean.npy", "latent_std.npy", "checks.json"):
        (cut / name).unlink()
    with pytest.raises(InputError, match=r"has no model.safetensors yet.*--resume"):
        RunFolder.open(cut)
    found = RunFolder.open(cut, unfinished=True)
    assert f"is not finished: this is what epoch-000{1 if recipe == 'paper' else 2}" in capsys.readouterr().err
    torch.testing.assert_close(found.representation().state_dict(), run.representation().state_dict())
    np.testing.assert_allclose(found.latent_mean(), run.latent_mean(), atol=1e-6)
    np.testing.assert_allclose(found.latent_std(), run.latent_std(), atol=1e-6)
    torch.testing.assert_close(found.store().require_pose().rotation, run.store().require_pose().rotation)


@pytest.mark.parametrize("refined", ["by the linear stage", "while training"])
def test_the_poses_of_a_run_that_is_still_training_are_the_refined_ones(whole, tiny_store, tmp_path, refined):
    cut = tmp_path / "run"
    shutil.copytree(whole.path, cut, symlinks=True)
    (cut / "model.safetensors").unlink()
    turn = torch.tensor([0.0, 0.0, torch.pi / 2, 2.0, -1.0])  # a quarter turn in the image's plane, and pixels
    offset = turn.expand(len(tiny_store), -1).clone()
    if refined == "by the linear stage":
        start, facts = load_tensors(cut / "linear.safetensors")
        save_tensors(cut / "linear.safetensors", start | {"offset": offset}, **facts)
    else:
        last = checkpoints(cut)[-1]
        tensors, facts = load_tensors(last)
        save_tensors(last, tensors | {"model.poses.offset": offset}, **facts)
    given, pose = tiny_store.require_pose(), RunFolder.open(cut, unfinished=True).store().require_pose()
    x, y, z = given.rotation.unbind(1)
    torch.testing.assert_close(pose.rotation, torch.stack([-y, x, z], dim=1))
    torch.testing.assert_close(
        pose.shift_A - given.shift_A, tiny_store.pixel_A * torch.tensor([2.0, -1.0]).expand(len(tiny_store), -1)
    )


def test_poses_are_refined_by_all_processors_and_gathered_before_the_checkpoint(config, tmp_path, monkeypatch):
    threads = []

    def refine(*_: object, **__: object) -> dict[str, float]:
        threads.append(torch.get_num_threads())
        return {}

    def gather(_: Parallel, table: torch.Tensor) -> None:
        if table.shape[1] == 5:
            raise Killed

    monkeypatch.setattr(joint, "refine_poses", refine)
    monkeypatch.setattr(Parallel, "all_gather_rows", gather)
    torch.set_num_threads(2)
    training = replace(SHORT, epochs=1, refine_poses=True, pose_epoch=1, batch_size=32)
    asked = replace(config, output=tmp_path / "run", recipe="paper", training=training, warm_steps=None)
    with pytest.raises(Killed):
        train(asked)
    assert threads == [2]
    assert not checkpoints(asked.output)


class Second(Parallel):
    """The second process of two: the first one wishes for points anew."""

    def broadcast_flag(self, flag: bool) -> bool:
        assert not flag  # it has not looked
        return True


def test_all_processes_take_the_latent_points_that_the_first_one_wishes(config, tiny_store, make_model, tmp_path):
    n = len(tiny_store)
    start = LinearStart(LinearSubspace(torch.zeros(3, 16, 16, 16)), torch.zeros(n, 2), torch.ones(n, 2))
    cpu = torch.device("cpu")
    options = resolve(neural_field_by_recipe(config), tiny_store, cpu)
    second = Second(1, 1, cpu)
    session = Session(NEURAL_FIELD, options, run=RunFolder(tmp_path), store=tiny_store, parallel=second)
    session.linear, session.model = start, make_model()
    assert encode.by_gradient(session)
