"""Gaussians end to end: both recipes to complete runs, the same for the same seed, refused, killed, resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.commands.train import train
from cryomorph.config.errors import InputError
from cryomorph.config.gaussians import GaussiansConfig, MixtureConfig
from cryomorph.config.training import TrainingConfig
from cryomorph.io.mrc import write_map
from cryomorph.representations.gaussians import Gaussians
from cryomorph.runs.folder import RunFolder
from cryomorph.training import loop

# what trains here is trained with the checks of shapes in training/test_shared_options.py
pytestmark = pytest.mark.unchecked

SMALL = MixtureConfig(gaussians=30, parts=4, width=16, layers=2, encoder_width=32, encoder_layers=2)
SHORT = TrainingConfig(epochs=2, precision="float32", device="cpu", held_out=0.1, checkpoint_minutes=0.0)


@pytest.fixture(scope="module")
def config(tiny_store) -> GaussiansConfig:
    """The shortest training, from the store; the output is to be replaced."""
    return GaussiansConfig(
        tiny_store.folder,
        Path("nowhere"),
        zdim=2,
        network=SMALL,
        training=SHORT,
        neutral_steps=40,
        warm_steps=60,
        seed=1,
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> RunFolder:
    """The training of `config`, uninterrupted."""
    return train(replace(config, output=tmp_path_factory.mktemp("whole") / "run"))


def same(one: RunFolder, other: RunFolder) -> None:
    np.testing.assert_array_equal(one.latent_mean(), other.latent_mean())
    found, expected = one.model_tensors(), other.model_tensors()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_the_default_recipe_leaves_a_whole_run(whole, tiny_set):
    model = whole.representation()
    assert isinstance(model, Gaussians) and model.shape.count == 30
    assert whole.model_facts()["encoder"] == "table"
    z, angle = whole.latent_mean(), np.load(tiny_set / "truth.npz")["coord"]
    assert z.shape == (400, 2)
    assert abs(np.corrcoef(z[:, 0], angle)[0, 1]) > 0.7
    assert (whole.path / "gaussians.cif").is_file()
    said = (whole.path / "run.log").read_text()
    assert "neutral: 30 Gaussians for the state of particle" in said
    checks = json.loads((whole.path / "checks.json").read_text())
    assert 0.8 < checks["scale"] < 1.2 and checks["sign"] > 0.5


def test_what_moves_is_the_arm(whole, tiny_set):
    """From end to end of the coordinate the Gaussians of the arm move farther than the others, and the right way."""
    model, store = whole.representation(), whole.store()
    z, angle = torch.from_numpy(whole.latent_mean()), torch.from_numpy(np.load(tiny_set / "truth.npz")["coord"])
    order = angle.argsort()
    ends = [z[order[part]].mean(0, keepdim=True) for part in (slice(0, 60), slice(340, 400))]
    first, last = (model.at(end).position[0].detach() * store.pixel_A for end in ends)
    moved = (last - first).norm(dim=1)
    assert float(moved.max()) > 3 * float(moved.median())


def test_the_same_seed_gives_the_same_run(config, whole, tmp_path):
    same(train(replace(config, output=tmp_path / "again")), whole)


@pytest.mark.parametrize("stage", ["after neutral", "in training"])
def test_a_killed_run_goes_on_to_the_same_end(config, whole, tmp_path, monkeypatch, stage):
    asked = replace(config, output=tmp_path / "killed")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if stage == "in training":
            patched.setattr(loop, "checkpoint", stop_after(loop.checkpoint, 1))
        else:
            patched.setattr("cryomorph.training.stages.warm_start.rms_transfer", killed)
        with pytest.raises(KeyboardInterrupt):
            train(asked)
    same(train(replace(asked, resume=True)), whole)


def stop_after(function, times: int):
    done = []

    def called(*args: object) -> None:
        function(*args)
        done.append(1)
        if len(done) == times:
            raise KeyboardInterrupt

    return called


def test_the_paper_s_recipe_opens_amplitudes_then_positions(config, tmp_path, monkeypatch):
    """An encoder of gradients, the ring correlation, every Gaussian by itself; a gate for each half."""
    gates = []
    before = loop.checkpoint

    def note(trainer, *rest: object) -> None:
        gates.append(trainer.model.representation.network.gate.tolist())
        before(trainer, *rest)

    monkeypatch.setattr(loop, "checkpoint", note)
    asked = replace(
        config,
        output=tmp_path / "paper",
        recipe="paper",
        warm_steps=None,
        network=replace(SMALL, parts=None, width=None, layers=None),
    )
    run = train(asked)
    assert {tuple(gate) for gate in gates} == {(0.0, 1.0, 0.0), (1.0, 1.0, 0.0)} and gates[0] == [0.0, 1.0, 0.0]
    assert run.model_facts()["encoder"] == "gradient"
    shape = run.representation().shape
    assert (shape.parts, shape.noisy, shape.width, shape.layers) == (0, True, 512, 4)
    np.testing.assert_allclose(run.latent_std(), 0.1, rtol=1e-3)
    assert "the consensus" in (run.path / "run.log").read_text()


@pytest.mark.parametrize(("encoder", "least"), [("gradient", 0.4), ("mlp", 0.1)])
def test_an_encoder_network_learns_the_linear_latents_first(config, tmp_path, tiny_set, encoder, least):
    asked = replace(config, output=tmp_path / "run", network=replace(SMALL, encoder=encoder))
    run = train(asked)
    assert run.model_facts()["encoder"] == encoder
    assert "of the variance of the linear latent points" in (run.path / "run.log").read_text()
    angle = np.load(tiny_set / "truth.npz")["coord"]
    fit = np.linalg.lstsq(np.c_[run.latent_mean(), np.ones(400)], angle, rcond=None)
    assert 1 - fit[1][0] / ((angle - angle.mean()) ** 2).sum() > least


def test_one_mixture_for_all_without_a_latent_space(config, tmp_path):
    run = train(replace(config, output=tmp_path / "run", zdim=0))
    assert run.latent_mean().shape == (400, 0) and (run.path / "map.mrc").is_file()


def test_the_correlation_trains_too(config, tmp_path):
    network = replace(SMALL, objective="frc", min_resolution=200.0, spread_penalty=1e-3)
    run = train(replace(config, output=tmp_path / "run", network=network))
    checks = json.loads((run.path / "checks.json").read_text())
    assert checks["sign"] > 0.5 and 0.8 < checks["scale"] < 1.2


def test_a_mask_or_a_list_says_which_gaussians_may_change(config, tmp_path):
    box = 16
    mask = np.zeros((box, box, box), np.float32)
    mask[:, :, box // 2 :] = 1
    write_map(tmp_path / "mask.mrc", mask, 16.0)
    (tmp_path / "list.txt").write_text("3\n5\n")
    for name in ("mask.mrc", "list.txt"):
        network = replace(SMALL, free=tmp_path / name)
        model = train(replace(config, output=tmp_path / f"run_{name}", network=network)).representation()
        if name == "list.txt":
            assert model.free.nonzero().squeeze(1).tolist() == [3, 5]
        else:
            assert 0 < float(model.free.mean()) < 1


@pytest.mark.parametrize(
    ("changes", "network", "message"),
    [
        ({}, {"gaussians": 2}, "--gaussians 2: expected 3 or more"),
        ({}, {"gaussians": 60_000}, "--gaussians 60000: expected 50000 at most"),
        ({}, {"resolution": 5.0}, "--resolution 5.0: the images contain 32.00 A at best"),
        ({}, {"free": Path("nowhere.mrc")}, "--free nowhere.mrc: no such file"),
        ({}, {"change": ()}, "--change names nothing"),
        ({}, {"objective": "frc", "min_resolution": 10.0}, "leave no ring to compare"),
        ({"symmetry": "K3"}, {}, "K3"),
        ({"symmetry": "C3"}, {"encoder": "mlp"}, "--encoder mlp sees only images"),
        ({"recipe": "paper"}, {"encoder": "table"}, "--encoder table starts from the linear method"),
        ({"recipe": "paper"}, {"neutral": "state"}, "--neutral state needs the linear method"),
    ],
)
def test_what_cannot_be_trained_is_refused(config, tmp_path, changes, network, message):
    asked = replace(config, output=tmp_path / "run", network=replace(SMALL, **network), **changes)
    with pytest.raises(InputError, match=message):
        train(asked)


def test_a_number_that_no_gaussian_has_is_named(config, tmp_path):
    (tmp_path / "list.txt").write_text("3\n30\n")
    asked = replace(config, output=tmp_path / "run", network=replace(SMALL, free=tmp_path / "list.txt"))
    with pytest.raises(InputError, match="Gaussian 30: the mixture has Gaussians 0 to 29"):
        train(asked)


def test_a_mask_without_a_gaussian_is_refused_and_no_file_of_the_user_s_is_removed(config, tmp_path):
    corner = np.zeros((16, 16, 16), np.float32)
    corner[0, 0, 0] = 1
    write_map(tmp_path / "empty.mrc", corner, 16.0)
    asked = replace(config, output=tmp_path / "run", network=replace(SMALL, free=tmp_path / "empty.mrc"))
    with pytest.raises(InputError, match="contains no Gaussian"):
        train(asked)
    mine = tmp_path / "run" / "list.txt"
    mine.write_text("3\n")
    with pytest.raises(InputError, match=r"--free .* lies in the run that --overwrite replaces"):
        train(replace(asked, network=replace(SMALL, free=mine), overwrite=True))
    assert mine.is_file()


def test_the_paper_s_recipe_goes_on_where_it_was_killed_and_takes_a_batch_of_one(config, tmp_path, monkeypatch):
    """Dropout draws the same again; 360 trained particles in batches of 359 and of one."""
    network = replace(SMALL, parts=None, width=16, layers=1, encoder_width=16)
    training = replace(SHORT, batch_size=359)
    asked = replace(config, recipe="paper", network=network, training=training, warm_steps=None)
    whole = train(replace(asked, output=tmp_path / "whole"))
    killed = replace(asked, output=tmp_path / "killed")
    with monkeypatch.context() as patched:
        patched.setattr(loop, "checkpoint", stop_after(loop.checkpoint, 1))
        with pytest.raises(KeyboardInterrupt):
            train(killed)
    same(train(replace(killed, resume=True)), whole)
