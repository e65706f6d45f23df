"""The trainer: its step against the formula, band, rate and noise by place, what it survives, held-out loss."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from cryomorph.compute.batch_threads import BatchThreads
from cryomorph.compute.distributed import Parallel
from cryomorph.objectives.disentangle import disentanglement
from cryomorph.particles.projection_class import projection_classes
from cryomorph.training.batches import split_held_out
from cryomorph.training.checkpoints import restore, state_of
from cryomorph.training.evaluation import FLAT, flat
from cryomorph.training.schedule import RAMP
from cryomorph.training.trainer import Trainer


def spoil(monkeypatch, trainer, particles):
    """Give these particles' images coefficients that are no numbers."""
    whole = type(trainer.store).batch

    def batch(self, index, count=None):
        found = whole(self, index, count)
        bad = torch.isin(index, torch.tensor(particles))
        return replace(found, image=torch.where(bad[:, None], torch.nan, found.image))

    monkeypatch.setattr(type(trainer.store), "batch", batch)


def run_epoch(trainer):
    disk = trainer.disk
    for batch in trainer.batches():
        trainer.step(batch, disk)


def kl_weight(trainer):
    return trainer.schedule.kl_weight(trainer.progress)


def finite(model):
    return all(torch.isfinite(value.float()).all() for value in model.state_dict().values())


def test_a_step_measures_the_likelihood_and_the_divergence_of_the_formula(make_trainer):
    """numpy in float64 from `sum |X - C V_z|^2` and from the divergence of two Gaussians, z with the step's noise."""
    trainer = make_trainer("table")
    model, store = trainer.model, trainer.store
    batch = next(iter(trainer.batches()))
    generator = torch.Generator().manual_seed(7 * 1_000_000_007)  # the seed of the fixture, the first place
    noise = torch.randn(len(batch), 2, generator=generator)
    mean, std = (table[batch.index] for table in (model.encoder.mean, model.encoder.std))
    with torch.no_grad():
        slices = model.representation.slices(mean + std * noise, batch.rotation, store.disk).numpy()
    residual = batch.image.numpy().astype(complex) - batch.ctf.numpy().astype(float) * slices
    nll = (np.abs(residual) ** 2).sum() / store.disk.size / len(batch)
    m, s = mean.numpy().astype(float), std.numpy().astype(float)
    kl = (0.5 * (s**2 + m**2 - 1) - np.log(s)).mean(0)
    trainer.step(batch, store.disk)
    facts = trainer.report()
    assert facts["nll"] == pytest.approx(nll, rel=1e-5)
    assert facts["kl"] == pytest.approx(kl, rel=1e-5)
    assert (facts["images"], facts["epoch"], facts["step"]) == (32, 1, 1)


def test_an_adam_step_moves_each_weight_by_the_rate_against_its_gradient(make_trainer):
    trainer = make_trainer("mlp", learning_rate=1e-2, rate_schedule="constant")
    before = [weight.detach().clone() for weight in trainer.optimiser.weights]
    trainer.step(next(iter(trainer.batches())), trainer.disk)
    for old, new in zip(before, trainer.optimiser.weights, strict=True):
        clear = new.grad.abs() > 1e-5
        torch.testing.assert_close((old - new)[clear], (1e-2 / RAMP * new.grad.sign())[clear], rtol=2e-2, atol=0)


def test_the_table_moves_the_batch_by_the_natural_gradient_of_each_image_s_own_loss(make_trainer):
    """Central differences of `nll + weight * KL` of every single image, with the weights as they were."""
    trainer = make_trainer("table", rate_schedule="constant", latent_rate=0.5, beta_schedule="constant", beta=3.0)
    trainer.optimiser.step = lambda rate, keep, *, threads: None
    model, store = trainer.model, trainer.store
    # small steps, so that none is cut off
    model.encoder.std.fill_(0.02)
    before = model.encoder.mean.clone()
    batch = next(iter(trainer.batches()))
    noise = trainer.stepper.noise(len(batch), trainer.progress)

    def losses(shift):
        with torch.no_grad():
            model.encoder.mean[batch.index] += shift
            loss = model(model.prepare_batch(batch, store.disk), store.disk, noise)
            model.encoder.mean.copy_(before)
        return (loss.nll.double() + 1.5 * loss.kl.double().sum(1)).numpy()

    gradient = np.stack([(losses(e) - losses(-e)) / 0.02 for e in 0.01 * torch.eye(2)], axis=1)
    trainer.step(batch, store.disk)
    rate = 0.5 * (0.3 + 0.7 / RAMP)
    expected = np.clip(gradient * 0.02, -1, 1) * 0.02 * -rate
    moved = (model.encoder.mean - before).numpy()
    np.testing.assert_allclose(moved[batch.index.numpy()], expected, atol=0.02 * np.abs(expected).max())
    others = np.setdiff1d(np.arange(len(store)), batch.index.numpy())
    assert (moved[others] == 0).all()


@pytest.mark.parametrize("encoder", ["table", "mlp"])
@pytest.mark.parametrize("optimiser", ["muon", "adam"])
def test_a_team_takes_the_steps_of_one_thread(make_trainer, encoder, optimiser):
    alone, shared = (make_trainer(encoder, optimiser=optimiser) for _ in range(2))
    with BatchThreads(12, 3) as threads:
        shared.threads = shared.stepper.threads = threads
        for trainer in (alone, shared):
            for batch in islice(trainer.batches(), 4):
                trainer.step(batch, trainer.disk)
        assert shared.held_out_loss() == pytest.approx(alone.held_out_loss(), rel=1e-4)
    # Adam divides by the slope's size: where that is mere rounding, the steps differ by as much as the rate
    tolerance = {"atol": 2e-4, "rtol": 1e-3}
    torch.testing.assert_close(shared.model.state_dict(), alone.model.state_dict(), **tolerance)
    assert shared.report()["nll"] == pytest.approx(alone.report()["nll"], rel=1e-4)


def test_training_improves_the_held_out_loss(make_trainer):
    trainer = make_trainer("table", epochs=4, learning_rate=3e-2, rate_schedule="constant", beta_schedule="constant")
    before = trainer.held_out_loss()
    while not trainer.finished:
        run_epoch(trainer)
        closed = trainer.finish_epoch()
    assert closed["held_out"] < before - 0.2


def test_the_radius_grows_by_epoch_and_is_full_at_the_end(make_trainer):
    trainer = make_trainer(epochs=8, first_radius=4.0, radius_share=0.5)
    bands, sizes = [], []
    for epoch in range(8):
        trainer.progress.epoch = epoch
        bands.append(trainer.disk.max_radius)
        batch = next(iter(trainer.batches()))
        sizes.append(batch.image.shape[1])
        assert sizes[-1] == trainer.disk.size
    assert bands[:5] == [4, 5, 6, 7, 8]
    assert set(bands[4:]) == {8}
    assert sizes[-1] == trainer.store.disk.size and sizes == sorted(sizes)


def test_the_first_radius_is_no_more_than_nyquist(make_trainer):
    assert make_trainer(first_radius=24.0, radius_share=0.5).disk.max_radius == 8


def test_a_network_sees_all_coefficients_whatever_is_compared(make_trainer):
    trainer = make_trainer("mlp", epochs=4, first_radius=4.0, radius_share=1.0)
    batch = next(iter(trainer.batches()))
    assert trainer.disk.max_radius == 4
    assert batch.image.shape[1] == trainer.store.disk.size
    trainer.step(batch, trainer.disk)
    assert math.isfinite(trainer.report()["nll"])


def test_noise_depends_on_the_place_in_the_training_and_on_nothing_else(make_trainer):
    one, other = make_trainer("table"), make_trainer("mlp", optimiser="muon")
    run_epoch(other)
    other.progress = replace(other.progress, epoch=0, step=0)
    assert torch.equal(one.stepper.noise(5, one.progress), other.stepper.noise(5, other.progress))
    drawn = []
    for epoch in range(2):
        for step in range(one.steps):
            one.progress.epoch, one.progress.step = epoch, step
            drawn.append(one.stepper.noise(5, one.progress))
    together = torch.stack(drawn).flatten(1)
    assert len(torch.unique(together, dim=0)) == 2 * one.steps
    assert abs(float(together.mean())) < 0.2 and abs(float(together.std()) - 1) < 0.2


def test_the_noise_of_two_processes_is_never_the_same(tiny_store, small_plan, make_model):
    drawn = []
    for rank in range(2):
        trainer = Trainer(make_model(), tiny_store, small_plan, parallel=Parallel(0, 1, torch.device("cpu")), seed=0)
        trainer.stepper.parallel = Parallel(rank, 2, torch.device("cpu"))
        for step in range(3):
            trainer.progress.step = step
            drawn.append(trainer.stepper.noise(4, trainer.progress).flatten())
    assert len(torch.unique(torch.stack(drawn), dim=0)) == 6


def test_the_rate_rises_then_falls_as_scheduled(make_trainer):
    trainer = make_trainer(epochs=10, rate_schedule="cosine")
    assert trainer.schedule.relative_rate(trainer.progress) == pytest.approx(1 / RAMP)
    trainer.progress.epoch = 5
    assert trainer.schedule.relative_rate(trainer.progress) == pytest.approx(0.5)
    trainer.progress.epoch = 10
    assert trainer.schedule.relative_rate(trainer.progress) == pytest.approx(0, abs=1e-12)
    constant = make_trainer(epochs=10, rate_schedule="constant")
    constant.progress.epoch = 9
    assert constant.schedule.relative_rate(constant.progress) == 1
    constant.progress.rate_factor = 0.25
    assert constant.schedule.relative_rate(constant.progress) == 0.25


def test_the_weight_of_the_divergence_is_half_of_the_papers_beta(make_trainer):
    assert kl_weight(make_trainer(beta=0.25, beta_schedule="constant")) == pytest.approx(0.125)
    rising = make_trainer(beta=2.0, beta_schedule="linear", epochs=4)
    weights = []
    for epoch in range(4):
        rising.progress.epoch = epoch
        weights.append(kl_weight(rising))
    assert weights == pytest.approx([0, 0.25, 0.5, 0.75])
    assert kl_weight(make_trainer(beta=0.0)) == 0


@pytest.mark.parametrize("optimiser", ["adam", "muon"])
@pytest.mark.parametrize("encoder", ["table", "mlp"])
def test_a_batch_with_a_non_finite_gradient_is_skipped(make_trainer, monkeypatch, encoder, optimiser):
    trainer = make_trainer(encoder, optimiser=optimiser, held_out=0.0)
    spoil(monkeypatch, trainer, [17])
    rows = trainer.model.encoder.mean[17].clone() if encoder == "table" else None
    batches = {tuple(batch.index.tolist()) for batch in trainer.batches()}
    run_epoch(trainer)
    facts = trainer.report()
    assert finite(trainer.model)
    assert all(torch.isfinite(value).all() for value in trainer.optimiser.state().values())
    assert facts["skipped"] == 1
    left_out = next(index for index in batches if 17 in index)
    assert tuple(int(i) for i in facts["skipped_images"]) == left_out
    assert math.isfinite(facts["nll"]) and all(map(math.isfinite, facts["kl"]))
    assert "rolled_back" not in facts and trainer.progress.rate_factor == 1
    if rows is not None:
        assert torch.equal(trainer.model.encoder.mean[17], rows)


def test_a_spike_is_skipped_once_the_norm_has_settled(make_trainer):
    """A gradient a thousand times the usual one is left out after a hundred steps, and a usual one is not."""
    trainer = make_trainer("mlp")
    trainer.monitor.usual, trainer.monitor.seen = torch.tensor(1e-9), torch.tensor(100.0)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    batch = next(iter(trainer.batches()))
    trainer.step(batch, trainer.disk)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert trainer.report()["skipped"] == 1


def lose(trainer):
    """Every weight becomes no number."""
    with torch.no_grad():
        for weight in trainer.optimiser.weights:
            weight.fill_(torch.nan)


def test_a_lost_model_is_restored_and_the_rate_is_halved(make_trainer):
    trainer = make_trainer("table")
    disk, batches = trainer.disk, list(trainer.batches())
    trainer.step(batches[0], disk)
    trainer.report()
    kept = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    memory = {name: value.clone() for name, value in trainer.optimiser.state().items()}
    lose(trainer)
    for batch in batches[1:4]:
        trainer.step(batch, disk)
    facts = trainer.report()
    assert facts["skipped"] == 3 and facts["rolled_back"] == 1
    assert trainer.progress.rate_factor == 0.5
    assert all(torch.equal(value, kept[name]) for name, value in trainer.model.state_dict().items())
    assert all(torch.equal(value, memory[name]) for name, value in trainer.optimiser.state().items())
    for batch in batches[4:]:
        trainer.step(batch, disk)
    facts = trainer.report()
    assert "skipped" not in facts and math.isfinite(facts["nll"])


def test_a_model_lost_late_in_a_report_is_restored_to_a_valid_state_too(make_trainer):
    """Lost for the last two of eight steps, fewer than half: what is lost must not become the state to go back to."""
    trainer = make_trainer("table")
    disk, batches = trainer.disk, list(trainer.batches())
    for batch in batches[:6]:
        trainer.step(batch, disk)
    lose(trainer)
    for batch in batches[6:8]:
        trainer.step(batch, disk)
    trainer.report()
    for batch in batches[8:]:
        trainer.step(batch, disk)
    trainer.report()
    assert finite(trainer.model)


def test_held_out_particles_never_reach_the_weights(make_trainer):
    trainer = make_trainer("table", held_out=0.1)
    assert len(trainer.held_out.index) == 40
    seen = torch.cat([batch.index for batch in trainer.batches()])
    assert not set(seen.tolist()) & set(trainer.held_out.index.tolist())
    assert sorted([*seen.tolist(), *trainer.held_out.index.tolist()]) == list(range(400))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    state = trainer.optimiser.state()
    trainer.held_out_loss()
    after = trainer.model.state_dict()
    moved = (after.pop("encoder.mean") - before.pop("encoder.mean")).abs().sum(1) > 0
    assert moved.nonzero().flatten().tolist() == trainer.held_out.index.tolist()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert not state and not trainer.optimiser.state()
    assert all(weight.requires_grad and weight.grad is None for weight in trainer.optimiser.weights)


def test_the_held_out_loss_is_the_mean_per_coefficient_at_the_full_band(make_trainer):
    trainer = make_trainer("mlp", held_out=0.1, beta=2.0, beta_schedule="constant", first_radius=4.0, radius_share=1.0)
    model, store = trainer.model, trainer.store
    batch = store.batch(trainer.held_out.index)
    with torch.no_grad():
        posterior = model.encoder(batch)
        slices = model.representation.slices(posterior.mean, batch.rotation, store.disk)
    residual = (batch.image - batch.ctf * slices).numpy()
    m, v = posterior.mean.numpy().astype(float), posterior.log_variance.numpy().astype(float)
    kl = 0.5 * (np.exp(v) + m**2 - 1 - v).sum(1)
    expected = ((np.abs(residual) ** 2).sum(1) + kl).mean() / store.disk.size
    assert trainer.held_out_loss() == pytest.approx(expected, rel=1e-5)


def test_without_held_out_particles_the_loss_is_unknown_and_training_never_ends_early(make_trainer):
    trainer = make_trainer(held_out=0.0, patience=1, epochs=9)
    for _ in range(4):
        assert math.isnan(trainer.finish_epoch()["held_out"])
    assert not trainer.finished


def test_particles_to_hold_out_are_drawn_by_seed_share_and_bounds():
    held, trained = split_held_out(1000, 0.05, 3)
    assert len(held) == 50 and len(trained) == 950
    assert sorted([*held.tolist(), *trained.tolist()]) == list(range(1000))
    assert held.tolist() == sorted(held.tolist()) and trained.tolist() == sorted(trained.tolist())
    assert torch.equal(split_held_out(1000, 0.05, 3)[0], held)
    assert not torch.equal(split_held_out(1000, 0.05, 4)[0], held)
    assert len(split_held_out(100_000, 0.05, 3)[0]) == 2000
    assert len(split_held_out(100, 0.05, 3)[0]) == 0
    assert split_held_out(100, 0.05, 3)[1].tolist() == list(range(100))


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        ([], 1, False),
        ([1.0], 1, False),
        ([1.0, 1.0], 1, True),
        ([1.0, 0.9], 1, False),
        ([1.0, 1.0 - FLAT / 2], 1, True),
        ([1.0, 0.9, 0.95], 2, False),
        ([1.0, 0.9, 0.95, 0.92], 2, True),
        ([1.0, 0.9, 0.95, 0.8], 2, False),
        ([0.5, 1.0, 2.0, 3.0], 3, True),
    ],
)
def test_losses_are_flat_when_the_last_ones_do_not_improve_on_those_before(losses, patience, expected):
    assert flat(losses, patience) is expected


def test_a_flat_held_out_loss_ends_the_training_but_not_while_the_band_grows(make_trainer, monkeypatch):
    trainer = make_trainer(epochs=10, patience=2, radius_share=0.4)
    monkeypatch.setattr(trainer, "held_out_loss", lambda: 1.0)
    closed = []
    while not trainer.finished:
        closed.append(trainer.finish_epoch())
    # epochs 1 to 4 have a growing band; of 5, 6 and 7 the last two brought nothing
    assert [row["epoch"] for row in closed] == list(range(1, 8))
    assert trainer.progress.stopped and trainer.progress.held_out == [1.0] * 3


def test_patience_zero_never_ends_early(make_trainer, monkeypatch):
    trainer = make_trainer(epochs=6, patience=0)
    monkeypatch.setattr(trainer, "held_out_loss", lambda: 1.0)
    while not trainer.finished:
        trainer.finish_epoch()
    assert trainer.progress.epoch == 6 and not trainer.progress.stopped


def test_without_a_latent_space_there_is_one_map_and_no_divergence(make_trainer):
    trainer = make_trainer(zdim=0)
    assert trainer.table is None
    run_epoch(trainer)
    facts = trainer.report()
    assert facts["kl"] == [] and math.isfinite(facts["nll"])
    assert math.isfinite(trainer.finish_epoch()["held_out"])


def test_bfloat16_measures_nearly_what_float32_does(make_trainer):
    measured = []
    for precision in ("float32", "bfloat16"):
        trainer = make_trainer("mlp", precision=precision)
        run_epoch(trainer)
        measured.append(trainer.report()["nll"])
        assert all(weight.dtype == torch.float32 for weight in trainer.optimiser.weights)
    assert measured[0] == pytest.approx(measured[1], rel=0.02)
    assert measured[0] != measured[1]


def test_the_rate_decays_by_a_twentieth_each_epoch(make_trainer):
    trainer = make_trainer(epochs=10, rate_schedule="decay")
    for epoch in (6, 8):
        trainer.progress.epoch = epoch
        assert trainer.schedule.relative_rate(trainer.progress) == pytest.approx(0.95**epoch)


@pytest.fixture
def with_bank(make_trainer, tiny_store):
    """A trainer with the disentanglement prior, which weighs two nats under a cyclic schedule."""

    def make(encoder="mlp", **changes):
        made = make_trainer(encoder, prior="disentangle", prior_weight=2.0, **changes)
        classes = projection_classes(tiny_store.require_pose().rotation, 12)
        alone = Parallel(0, 1, torch.device("cpu"))
        return Trainer(made.model, tiny_store, made.plan, parallel=alone, seed=7, projection_class=classes)

    return make


def test_the_bank_begins_with_the_codes_of_all_particles(with_bank):
    """The table's own; an encoder network is asked for those of held-out particles too."""
    trainer = with_bank("table")
    trainer.begin()
    assert torch.equal(trainer.bank.code, trainer.model.encoder.mean)
    trainer = with_bank("mlp", held_out=0.2)
    trainer.begin()
    batch = trainer.store.batch(torch.arange(len(trainer.store)))
    with torch.no_grad():
        torch.testing.assert_close(trainer.bank.code, trainer.model.encoder(batch).mean)
    trainer.progress.epoch = 1
    trainer.bank.code.zero_()
    trainer.begin()  # a training that goes on has the bank of its checkpoint
    assert not bool(trainer.bank.code.any())


def test_every_particle_is_visited_in_every_epoch_and_its_code_moved(with_bank):
    trainer = with_bank("mlp", held_out=0.1)
    classes = trainer.bank.projection_class
    for epoch in range(2):
        before, seen = trainer.bank.code.clone(), []
        for batch in trainer.batches():
            assert len(classes[batch.index].unique()) == 1
            seen.append(batch.index)
            trainer.step(batch, trainer.disk)
        assert torch.cat(seen).sort().values.tolist() == trainer.trained.tolist()
        moved = (trainer.bank.code != before).any(1)
        assert moved[trainer.trained].all() and not moved[trainer.held_out.index].any()
        trainer.progress.epoch, trainer.progress.step = epoch + 1, 0


def test_the_prior_counts_by_its_weight_and_the_divergence_s_schedule(with_bank):
    """The step's gradient is that of `nll + weight (KL beta / 2 + lambda J)`, by finite differences of one bias."""
    trainer = with_bank("mlp", beta_schedule="linear", epochs=4)
    trainer.begin()
    trainer.progress.epoch = 2
    assert trainer.schedule.prior_weight(trainer.progress) == pytest.approx(1.0) and kl_weight(
        trainer
    ) == pytest.approx(0.5)
    trainer.optimiser.step = lambda rate, keep, *, threads: None
    model, batch = trainer.model, next(iter(trainer.batches()))
    others = trainer.bank.others(int(trainer.bank.projection_class[batch.index[0]]), torch.Generator())
    noise, bias = trainer.stepper.noise(len(batch), trainer.progress), model.encoder.output.bias

    def value(step):
        with torch.no_grad():
            bias[0] += step
            loss = model(batch, trainer.disk, noise)
            bias[0] -= step
            prior = disentanglement(loss.mean, others).double()
            whole = loss.nll.double() + 0.5 * loss.kl.double().sum(1) + prior
        return float(whole.mean()) / trainer.disk.size

    slope = (value(0.01) - value(-0.01)) / 0.02
    trainer.step(batch, trainer.disk)
    assert float(bias.grad[0]) == pytest.approx(slope, rel=2e-2)
    said = trainer.report()["disentanglement"]
    with torch.no_grad():
        found = model(batch, trainer.disk, noise)
    assert said == pytest.approx(float(disentanglement(found.mean, others).mean()), rel=1e-4)


def test_a_checkpoint_holds_the_bank(with_bank):
    trainer, other = with_bank("mlp"), with_bank("mlp")
    trainer.begin()
    restore(other, *state_of(trainer))
    assert torch.equal(other.bank.code, trainer.bank.code) and bool(trainer.bank.code.any())


def test_the_best_epoch_is_that_of_the_least_held_out_loss(make_trainer):
    trainer = make_trainer()
    assert not trainer.best
    for loss, best in ((3.0, True), (2.0, True), (2.5, False), (math.nan, False), (1.0, True), (math.nan, False)):
        trainer.held_out_loss = lambda loss=loss: loss
        trainer.finish_epoch()
        assert trainer.best == best


def test_one_image_that_is_no_number_does_not_spoil_the_bank(with_bank, monkeypatch):
    trainer = with_bank("mlp")
    spoil(monkeypatch, trainer, [17])
    trainer.begin()
    for epoch in range(3):
        run_epoch(trainer)
        facts = trainer.report()
        assert facts["skipped"] == 1 and 17 in facts["skipped_images"]
        trainer.progress.epoch, trainer.progress.step = epoch + 1, 0
    assert bool(trainer.bank.code.isfinite().all())


def test_a_process_with_fewer_batches_begins_with_them_again(make_trainer):
    trainer = make_trainer()
    own = len(list(trainer.batches()))
    trainer.steps = own + 2
    indices = [batch.index for batch in trainer.batches()]
    assert len(indices) == own + 2
    assert torch.equal(indices[own], indices[0]) and torch.equal(indices[own + 1], indices[1])
    for step in (3, own, own + 1):
        trainer.progress.step = step
        for found, expected in zip(trainer.batches(), indices[step:], strict=True):
            assert torch.equal(found.index, expected)


@pytest.mark.parametrize("encoder", ["table", "mlp"])
def test_upcoming_particles_are_what_the_next_steps_are_given(make_trainer, encoder):
    """In any epoch and after any step; less at the end of an epoch, and none of those held out."""
    trainer = make_trainer(encoder)
    for epoch in (0, 1):
        for step in (0, 3, 11):
            trainer.progress.epoch, trainer.progress.step = epoch, step
            given = [batch.index for batch in trainer.batches()]
            for steps in (1, 4, 99):
                assert torch.equal(trainer.upcoming(steps), torch.cat(given[:steps]))
            assert not torch.isin(trainer.upcoming(99), trainer.held_out.index).any()
