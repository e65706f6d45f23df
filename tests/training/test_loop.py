"""The loop: a killed training resumed ends in the same bits; what it writes down, and what it says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryomorph.compute.distributed import Parallel
from cryomorph.runs.checkpoint import load_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.training import loop
from cryomorph.training.checkpoints import state_of
from cryomorph.training.trainer import Trainer

NOT_COMPARED = ("seconds", "images_per_second")


class Killed(Exception):
    """The power went."""


@pytest.fixture(autouse=True)
def reports_every_third_step(monkeypatch):
    monkeypatch.setattr(loop, "REPORT_EVERY", 3)


@pytest.fixture
def new_run(tmp_path):
    """Makes run folders by name."""

    def make(name: str) -> RunFolder:
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        return RunFolder(tmp_path / name)

    return make


def kill_after(monkeypatch, steps):
    """The next step after so many raises; returns what undoes that."""
    whole, left = Trainer.step, [steps]

    def step(self, batch, disk):
        if not left[0]:
            raise Killed
        left[0] -= 1
        whole(self, batch, disk)

    monkeypatch.setattr(Trainer, "step", step)
    return lambda: monkeypatch.setattr(Trainer, "step", whole)


def rows(run: RunFolder) -> list[dict[str, object]]:
    """Everything recorded but how fast it went; where a killed training said a thing twice, the last counts."""
    found = {}
    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        row = {key: value for key, value in json.loads(line).items() if key not in NOT_COMPARED}
        found[row["stage"], row["epoch"], row.get("step")] = row
    return [found[key] for key in sorted(found, key=str)]


def same(one: Trainer, other: Trainer) -> None:
    """Bit for bit: weights, buffers, table, the optimiser's memory, the monitor, and how far the training is."""
    (tensors, facts), (expected, expected_facts) = state_of(one), state_of(other)
    assert tensors.keys() == expected.keys()
    assert any(name.startswith("optimiser.") for name in tensors)
    differ = [name for name, value in tensors.items() if not torch.equal(value, expected[name])]
    assert not differ
    assert json.loads(facts) == json.loads(expected_facts)


@pytest.mark.parametrize("kind", [("table", "muon"), ("table", "adam"), ("mlp", "muon"), ("mlp", "adam")])
@pytest.mark.parametrize("steps", [4, 12, 17])
def test_a_training_killed_and_resumed_ends_in_the_same_bits(make_trainer, new_run, monkeypatch, kind, steps):
    """Twelve steps an epoch: killed in the first, just before its last report is written, and in the second."""
    encoder, optimiser = kind
    asked = {"optimiser": optimiser, "checkpoint_minutes": 0.0, "radius_share": 0.6, "epochs": 3, "learning_rate": 2e-3}
    whole, run = make_trainer(encoder, **asked), new_run("whole")
    loop.train(whole, run)
    undo = kill_after(monkeypatch, steps)
    killed = new_run("killed")
    with pytest.raises(Killed):
        loop.train(make_trainer(encoder, **asked), killed)
    undo()
    resumed = make_trainer(encoder, **asked)
    loop.train(resumed, killed)
    same(resumed, whole)
    assert rows(killed) == rows(run)
    epoch, step = (steps - steps % 3) // 12, (steps - steps % 3) % 12
    assert f"resumed after epoch {epoch}, step {step}" in (killed.path / "run.log").read_text() or steps == 12


def test_a_training_killed_twice_ends_in_the_same_bits(make_trainer, new_run, monkeypatch):
    asked = {"optimiser": "muon", "checkpoint_minutes": 0.0}
    whole = make_trainer(**asked)
    loop.train(whole, new_run("whole"))
    killed = new_run("killed")
    for steps in (5, 9):
        undo = kill_after(monkeypatch, steps)
        with pytest.raises(Killed):
            loop.train(make_trainer(**asked), killed)
        undo()
    resumed = make_trainer(**asked)
    loop.train(resumed, killed)
    same(resumed, whole)


def test_without_checkpoints_within_an_epoch_it_goes_on_from_the_last_epoch_s(make_trainer, new_run, monkeypatch):
    asked = {"checkpoint_minutes": 60.0}
    whole = make_trainer(**asked)
    loop.train(whole, new_run("whole"))
    killed = new_run("killed")
    undo = kill_after(monkeypatch, 20)
    with pytest.raises(Killed):
        loop.train(make_trainer(**asked), killed)
    undo()
    resumed = make_trainer(**asked)
    loop.train(resumed, killed)
    same(resumed, whole)
    assert "resumed after epoch 1, step 0" in (killed.path / "run.log").read_text()


def test_a_halved_rate_outlives_a_resume(make_trainer, new_run, monkeypatch):
    asked = {"checkpoint_minutes": 0.0}
    killed = new_run("killed")
    trainer = make_trainer(**asked)
    trainer.progress.rate_factor = 0.5
    undo = kill_after(monkeypatch, 4)
    with pytest.raises(Killed):
        loop.train(trainer, killed)
    undo()
    resumed = make_trainer(**asked)
    loop.resume(resumed, killed)
    assert resumed.progress.rate_factor == 0.5
    assert (resumed.progress.epoch, resumed.progress.step) == (0, 3)


def test_the_state_to_go_back_to_after_a_resume_is_the_checkpoint_s(make_trainer, new_run):
    run, trainer = new_run("run"), make_trainer(epochs=1)
    loop.train(trainer, run)
    resumed = make_trainer(epochs=2)
    loop.resume(resumed, run)
    with torch.no_grad():
        for weight in resumed.optimiser.weights:
            weight.fill_(torch.nan)
    resumed.step(next(iter(resumed.batches())), resumed.disk)
    assert resumed.report()["rolled_back"] == 1
    expected = trainer.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_the_last_two_checkpoints_are_kept_and_nothing_half_written(make_trainer, new_run):
    run = new_run("run")
    loop.train(make_trainer(epochs=4), run)
    names = sorted(path.name for path in (run.path / "checkpoints").iterdir())
    assert names == ["epoch-0003.safetensors", "epoch-0004.safetensors"]
    assert json.loads(load_tensors(run.path / "checkpoints" / names[1])[1]["progress"])["epoch"] == 4


def test_a_finished_training_does_nothing_when_it_is_resumed(make_trainer, new_run, monkeypatch):
    run = new_run("run")
    whole = make_trainer()
    loop.train(whole, run)
    before = (run.path / "metrics.jsonl").read_text()
    kill_after(monkeypatch, 0)
    again = make_trainer()
    loop.train(again, run)
    same(again, whole)
    assert (run.path / "metrics.jsonl").read_text() == before


def test_a_flat_held_out_loss_ends_the_training_and_stays_ended(make_trainer, new_run, monkeypatch):
    monkeypatch.setattr(Trainer, "held_out_loss", lambda self: 1.0)
    run, asked = new_run("run"), {"epochs": 9, "patience": 2}
    loop.train(make_trainer(**asked), run)
    assert "stopped after epoch 3: the held-out loss was flat for 2 epochs" in (run.path / "run.log").read_text()
    assert [row["epoch"] for row in rows(run) if row["stage"] == "epoch"] == [1, 2, 3]
    again = make_trainer(**asked)
    loop.train(again, run)
    assert again.progress.epoch == 3


def test_metrics_say_loss_divergence_speed_and_rate_of_every_report(make_trainer, new_run):
    run = new_run("run")
    loop.train(make_trainer(epochs=1), run)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    joint = [row for row in lines if row["stage"] == "joint"]
    assert [row["step"] for row in joint] == [3, 6, 9, 12, 12]
    assert sum(row.get("images", 0) for row in joint) == 380  # of 400, 20 are held out
    for row in joint[:4]:
        assert row["nll"] > 0 and len(row["kl"]) == 2 and row["learning_rate"] >= 0 and row["images_per_second"] > 0
    closed = lines[-1]
    assert closed["stage"] == "epoch" and closed["held_out"] > 0 and closed["seconds"] > 0


def test_left_out_steps_are_warned_of_with_their_images(make_trainer, new_run, monkeypatch, capsys):
    """One image of 400 is no number: its batch is named in each epoch, and the training ends in finite weights."""
    run, trainer = new_run("run"), make_trainer("mlp", held_out=0.0, epochs=2)
    whole = type(trainer.store).batch

    def batch(self, index, count=None):
        found = whole(self, index, count)
        return replace(found, image=torch.where((index == 17)[:, None], torch.inf, found.image))

    monkeypatch.setattr(type(trainer.store), "batch", batch)
    said: list[str] = []
    monkeypatch.setattr(RunFolder, "warn", lambda self, message: said.append(message))
    loop.train(trainer, run)
    assert all(torch.isfinite(weight).all() for weight in trainer.optimiser.weights)
    named = [row for row in rows(run) if "skipped" in row]
    assert [row["epoch"] for row in named] == [1, 2]
    assert all(17 in row["skipped_images"] and len(row["skipped_images"]) <= 32 for row in named)
    assert len(said) == 2
    first = ", ".join(str(int(i)) for i in sorted(named[0]["skipped_images"])[:8])
    assert (
        said[0].startswith("skipped 1 steps with non-finite or far too large gradients")
        and f"particles {first} and" in said[0]
    )
    assert all(map(torch.isfinite, (torch.tensor(row["nll"]) for row in named)))


def test_a_rolled_back_model_is_warned_of(make_trainer, new_run, monkeypatch):
    """The weights are lost at the seventh step: the report puts them back, and the training ends sound."""
    run, trainer = new_run("run"), make_trainer(epochs=1)
    whole, count = Trainer.step, [0]

    def step(self, batch, disk):
        if count[0] == 6:
            with torch.no_grad():
                self.optimiser.weights[0].fill_(torch.nan)
        count[0] += 1
        whole(self, batch, disk)

    monkeypatch.setattr(Trainer, "step", step)
    said: list[str] = []
    monkeypatch.setattr(RunFolder, "warn", lambda self, message: said.append(message))
    loop.train(trainer, run)
    assert [text for text in said if "restored to the last valid state" in text and "learning rate is halved" in text]
    assert trainer.progress.rate_factor == 0.5
    assert all(torch.isfinite(value.float()).all() for value in trainer.model.state_dict().values())
    rolled = [row for row in rows(run) if "rolled_back" in row]
    assert [row["step"] for row in rolled] == [9]


def test_the_bar_says_epoch_radius_loss_and_divergences(make_trainer):
    trainer = make_trainer(epochs=5, first_radius=4.0, radius_share=1.0)
    assert loop.label(trainer) == "epoch 1 of 5, radius 4"
    trainer.last_report = {"nll": 1.25, "kl": [0.5, 2.0]}
    assert loop.label(trainer) == "epoch 1 of 5, radius 4, loss 1.2500, KL 0.5 2.0"


def test_what_belongs_to_an_epoch_is_called_once_in_each(make_trainer, new_run):
    trainer, called = make_trainer(epochs=3), []

    def note() -> None:
        called.append((trainer.progress.epoch, trainer.progress.step))

    loop.train(trainer, new_run("run"), before_epoch=note, after_epoch=note)
    assert called == [(0, 0), (0, 12), (1, 0), (1, 12), (2, 0), (2, 12)]


def test_what_belongs_to_a_step_is_called_before_each(make_trainer, new_run):
    trainer, called = make_trainer(epochs=2), []
    loop.train(
        trainer, new_run("run"), before_step=lambda: called.append((trainer.progress.epoch, trainer.progress.step))
    )
    assert called == [(epoch, step) for epoch in (0, 1) for step in range(12)]


def test_two_trainings_of_one_run_are_told_apart(make_trainer, new_run, monkeypatch):
    """The second is killed and resumed: it goes on from its own checkpoint, and leaves those of the first alone."""
    run, first, second = new_run("run"), make_trainer(epochs=2), {"learning_rate": 2e-3, "epochs": 3}
    loop.train(first, run, name="search-")
    kept = {path.name: path.read_bytes() for path in (run.path / "checkpoints").iterdir()}
    assert [*sorted(kept)] == ["search-epoch-0001.safetensors", "search-epoch-0002.safetensors"]
    undo = kill_after(monkeypatch, 15)
    with pytest.raises(Killed):
        loop.train(make_trainer(**second), run)
    undo()
    resumed, whole = make_trainer(**second), make_trainer(**second)
    loop.train(resumed, run)
    loop.train(whole, new_run("whole"))
    same(resumed, whole)
    assert all((run.path / "checkpoints" / name).read_bytes() == content for name, content in kept.items())
    stages = [(row["stage"], row["epoch"]) for row in rows(run) if "step" not in row]
    assert stages == [*(("epoch", number) for number in (1, 2, 3)), ("search-epoch", 1), ("search-epoch", 2)]
    assert {row["stage"] for row in rows(run)} == {"joint", "epoch", "search-joint", "search-epoch"}
    again = make_trainer(epochs=2)
    loop.resume(again, run, "search-")
    same(again, first)


def test_a_run_folder_without_checkpoints_starts_anew(make_trainer, tmp_path: Path):
    trainer = make_trainer()
    loop.resume(trainer, RunFolder(tmp_path / "none"))
    assert (trainer.progress.epoch, trainer.progress.step) == (0, 0)


class Others(Parallel):
    """Stands for the other processes: odd rows and odd matrices are theirs, and they made them 7."""

    def all_gather_rows(self, table: torch.Tensor) -> None:
        table[1::2] = 7.0

    def broadcast(self, tensors: Sequence[torch.Tensor]) -> None:
        for tensor in tensors[1::2]:
            tensor.fill_(7.0)


def test_a_checkpoint_holds_what_the_other_processes_have_found(make_trainer, new_run):
    trainer, run = make_trainer(optimiser="muon"), new_run("run")
    trainer.step(next(trainer.batches()), trainer.disk)
    rows = trainer.table.mean.clone()
    momenta = {name: value.clone() for name, value in trainer.optimiser.state().items() if "momentum" in name}
    trainer.parallel = trainer.optimiser.parallel = Others(0, 1, torch.device("cpu"))
    loop.checkpoint(trainer, run)
    saved, _ = load_tensors(run.path / "checkpoints" / "epoch-0000.safetensors")
    assert torch.equal(saved["model.encoder.mean"][::2], rows[::2])
    assert saved["model.encoder.mean"][1::2].eq(7).all()
    theirs = [name for name in momenta if saved[f"optimiser.{name}"].eq(7).all()]
    assert len(momenta) > 1 and len(theirs) == len(momenta) // 2
    assert all(torch.equal(saved[f"optimiser.{name}"], momenta[name]) for name in momenta.keys() - {*theirs})
