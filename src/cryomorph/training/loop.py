"""The training loop of every method."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from cryomorph.config.console import progress, warn
from cryomorph.runs.folder import RunFolder
from cryomorph.training.checkpoints import checkpoint, keep_best, restore_best, resume
from cryomorph.training.gradient_monitor import named
from cryomorph.training.trainer import Trainer

REPORT_EVERY = 50


def train(
    trainer: Trainer,
    run: RunFolder,
    *,
    before_epoch: Callable[[], None] = lambda: None,
    after_epoch: Callable[[], None] = lambda: None,
    before_step: Callable[[], None] = lambda: None,
    name: str = "",
) -> None:
    """Train until the last epoch, or until the held-out loss is flat; an interrupted run continues.

    Args:
        before_epoch, after_epoch, before_step: further work in an epoch or a step, such as refining poses.
        name: prefix of checkpoints and records, in a run that trains more than once.
    """
    resume(trainer, run, name)
    trainer.begin()
    total = trainer.epochs * len(trainer.trained)
    saved = perf_counter()
    with progress("training", total) as advance:
        advance(trainer.schedule.completed(trainer.progress) * total, "training")
        while not trainer.finished:
            before_epoch()
            disk = trainer.disk
            begin, images = perf_counter(), 0
            for batch in trainer.batches():
                before_step()
                trainer.step(batch, disk)
                images += len(batch)
                advance(len(batch), label(trainer))
                if trainer.progress.step % REPORT_EVERY == 0:
                    report(trainer, run, images / (perf_counter() - begin), name=name)
                    if trainer.parallel.broadcast_flag(perf_counter() - saved > 60 * trainer.plan.checkpoint_minutes):
                        checkpoint(trainer, run, name)
                        saved = perf_counter()
            report(trainer, run, images / (perf_counter() - begin), name=name)
            after_epoch()
            closed = trainer.finish_epoch()
            run.record(stage=f"{name}epoch", seconds=perf_counter() - begin, **closed)
            keep_best(trainer, run)  # before the checkpoint: training resumed from an earlier one passes here again
            checkpoint(trainer, run, name)
            saved = perf_counter()
    restore_best(trainer, run)
    if trainer.progress.stopped:
        run.log(
            f"stopped after epoch {trainer.progress.epoch}: the held-out loss was flat for {trainer.plan.patience} "
            "epochs"
        )


def report(trainer: Trainer, run: RunFolder, images_per_second: float, *, name: str = "") -> None:
    """Record the losses since the last report, and warn of skipped steps."""
    facts = trainer.report()
    speed = round(images_per_second * trainer.parallel.world_size, 1)
    run.record(stage=f"{name}joint", images_per_second=speed, **facts)
    if "skipped" in facts:
        say = run.warn if trainer.parallel.is_rank_zero else warn  # each process knows the images of its own steps
        images = [int(i) for i in facts["skipped_images"]]
        say(f"skipped {facts['skipped']} steps with non-finite or far too large gradients: particles {named(images)}")
    if "rolled_back" in facts:
        run.warn("the model was restored to the last valid state; the learning rate is halved")


def label(trainer: Trainer) -> str:
    """Text of the progress bar."""
    facts = trainer.last_report
    text = f"epoch {trainer.progress.epoch + 1} of {trainer.epochs}, radius {trainer.disk.max_radius:.0f}"
    if "nll" in facts:
        kl = facts["kl"]
        text += f", loss {facts['nll']:.4f}"
        text += f", KL {' '.join(f'{value:.1f}' for value in kl)}" if kl else ""
    return text
