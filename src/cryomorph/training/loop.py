"""The training loop of every method."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from cryomorph.config.console import progress, warn
from cryomorph.models.registry import facts_of, network_kind
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.snapshot import checkpoints
from cryomorph.training.gradient_monitor import named
from cryomorph.training.trainer import Trainer

REPORT_EVERY = 50
CHECKPOINTS_KEPT = 2
BEST = "checkpoints/best.safetensors"


def train(
    trainer: Trainer,
    run: RunFolder,
    *,
    before_epoch: Callable[[], None] = lambda: None,
    after_epoch: Callable[[], None] = lambda: None,
    before_step: Callable[[], None] = lambda: None,
    name: str = "",
) -> None:
    """Train until the epochs are over or the held-out loss is flat; a run that was interrupted goes on.

    Args:
        before_epoch, after_epoch, before_step: what else belongs to an epoch or a step, such as refining poses.
        name: what its checkpoints and records are told apart by, in a run that trains more than once.
    """
    resume(trainer, run, name)
    trainer.begin()
    total = trainer.epochs * len(trainer.trained)
    saved = perf_counter()
    with progress("training", total) as advance:
        advance(trainer.done * total, "training")
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
            keep_best(trainer, run)  # first: a training that goes on from before it comes by again
            checkpoint(trainer, run, name)
            saved = perf_counter()
    take_best(trainer, run)
    if trainer.progress.stopped:
        run.log(f"held-out loss is flat since {trainer.plan.patience} epochs: ended after {trainer.progress.epoch}")


def report(trainer: Trainer, run: RunFolder, images_per_second: float, *, name: str = "") -> None:
    """Write down what was measured, and say it when steps had to be left out."""
    facts = trainer.report()
    run.record(
        stage=f"{name}joint", images_per_second=round(images_per_second * trainer.parallel.world_size, 1), **facts
    )
    trainer.spoken = facts
    tell = run.warn if trainer.parallel.is_rank_zero else warn  # each process knows the images of its own steps
    if "skipped" in facts:
        images = [int(i) for i in facts["skipped_images"]]
        tell(f"{facts['skipped']} steps were not numbers or far too large and were left out: particles {named(images)}")
    if "rolled_back" in facts:
        run.warn("the model was put back to where it was sound; the learning rate is halved")


def label(trainer: Trainer) -> str:
    """What the progress bar says."""
    facts = trainer.spoken
    text = f"epoch {trainer.progress.epoch + 1} of {trainer.epochs}, band {trainer.disk.max_radius:.0f}"
    if "nll" in facts:
        kl = facts["kl"]
        text += f", loss {facts['nll']:.4f}"
        text += f", KL {' '.join(f'{value:.1f}' for value in kl)}" if kl else ""
    return text


def checkpoint(trainer: Trainer, run: RunFolder, name: str = "") -> None:
    """Write the state of a training; the last few are kept."""
    trainer.gather()
    if trainer.parallel.is_rank_zero:
        tensors, facts = trainer.state()
        folder = run.path / "checkpoints"
        described = facts_of(trainer.model.representation)
        described |= {"encoder": network_kind(trainer.model.encoder) or ""}
        save_tensors(
            folder / f"{name}epoch-{trainer.progress.epoch:04d}.safetensors", tensors, progress=facts, **described
        )
        for old in checkpoints(run.path, name)[:-CHECKPOINTS_KEPT]:
            old.unlink()


def keep_best(trainer: Trainer, run: RunFolder) -> None:
    """Where the model is to be chosen by its held-out loss: keep it, if it is the best so far."""
    if trainer.plan.final_model != "best" or not trainer.best:
        return
    trainer.gather()
    if trainer.parallel.is_rank_zero:
        state = {name: value.contiguous() for name, value in trainer.model.state_dict().items()}
        save_tensors(run.path / BEST, state, epoch=str(trainer.progress.epoch))


def take_best(trainer: Trainer, run: RunFolder) -> None:
    """Where the model is to be chosen by its held-out loss: go back to the best one that was kept."""
    with trainer.parallel.rank_zero_first():
        if trainer.plan.final_model == "best" and not (run.path / BEST).is_file():
            run.warn("no epoch at the full band had a held-out loss: the last model is taken, not the best")
        elif trainer.plan.final_model == "best":
            tensors, facts = load_tensors(run.path / BEST)
            trainer.model.load_state_dict({name: value.to(trainer.parallel.device) for name, value in tensors.items()})
            run.log(f"the model of epoch {facts['epoch']} is taken: its held-out loss is the least")


def resume(trainer: Trainer, run: RunFolder, name: str = "") -> None:
    """Take up the last checkpoint, where there is one."""
    found = checkpoints(run.path, name)
    if found:
        tensors, facts = load_tensors(found[-1])
        trainer.restore(tensors, facts["progress"])
        run.log(f"resumed after epoch {trainer.progress.epoch}, step {trainer.progress.step}")
