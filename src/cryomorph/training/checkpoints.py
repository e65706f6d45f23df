"""Checkpoints of a training, from which it is resumed exactly, and the best model so far."""

from __future__ import annotations

import json

from torch import Tensor, nn

from cryomorph.io.npy import damaged
from cryomorph.models.registry import facts_of, network_kind
from cryomorph.runs.checkpoint import again, load_state, load_tensors, save_tensors
from cryomorph.runs.folder import RunFolder, checkpoints
from cryomorph.training.gradient_monitor import LastValidState
from cryomorph.training.progress import Progress
from cryomorph.training.trainer import Trainer

KEPT = 2
BEST = "checkpoints/best.safetensors"


def checkpoint(trainer: Trainer, run: RunFolder, name: str = "") -> None:
    """Write the state of a training; the last few are kept."""
    gather(trainer)
    if trainer.parallel.is_rank_zero:
        tensors, progress = state_of(trainer)
        described = facts_of(trainer.model.representation)
        described |= {"encoder": network_kind(trainer.model.encoder) or ""}
        path = run.path / "checkpoints" / f"{name}epoch-{trainer.progress.epoch:04d}.safetensors"
        save_tensors(path, tensors, progress=progress, **described)
        for old in checkpoints(run.path, name)[:-KEPT]:
            old.unlink()


def resume(trainer: Trainer, run: RunFolder, name: str = "") -> None:
    """Continue from the last checkpoint, if there is one."""
    found = checkpoints(run.path, name)
    if found:
        tensors, facts = load_tensors(found[-1])
        try:
            restore(trainer, tensors, facts["progress"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise damaged(found[-1], error, again(found[-1])) from error
        run.log(f"resumed after epoch {trainer.progress.epoch}, step {trainer.progress.step}")


def keep_best(trainer: Trainer, run: RunFolder) -> None:
    """Keep the model if it is to be chosen by its held-out loss and has the lowest so far."""
    if trainer.plan.final_model != "best" or not trainer.best:
        return
    gather(trainer)
    if trainer.parallel.is_rank_zero:
        state = {name: value.contiguous() for name, value in trainer.model.state_dict().items()}
        save_tensors(run.path / BEST, state, epoch=str(trainer.progress.epoch))


def restore_best(trainer: Trainer, run: RunFolder) -> None:
    """Go back to the model with the lowest held-out loss, if the model is to be chosen by it."""
    if trainer.plan.final_model != "best":
        return
    with trainer.parallel.rank_zero_first():
        if not (run.path / BEST).is_file():
            run.warn("no epoch at the full band had a held-out loss: keeping the last model, not the best")
            return
        facts = load_state(trainer.model, run.path / BEST)
        run.log(f"keeping the model of epoch {facts['epoch']}, which has the lowest held-out loss")


def gather(trainer: Trainer) -> None:
    """Bring the tables, running means and optimisers of all processes together."""
    model, parallel = trainer.model, trainer.parallel
    trainer.optimiser.gather()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d) and part.running_mean is not None and part.running_var is not None:
            for mean in (part.running_mean, part.running_var):
                mean.copy_(parallel.all_reduce_sum(mean) / parallel.world_size)
    if trainer.table is not None:
        parallel.all_gather_rows(trainer.table.mean)
    if trainer.bank is not None:
        parallel.all_gather_rows(trainer.bank.code)


def state_of(trainer: Trainer) -> tuple[dict[str, Tensor], str]:
    """Tensors and progress of a training, as a checkpoint holds them."""
    tensors = {f"model.{name}": value for name, value in trainer.model.state_dict().items()}
    tensors |= {f"optimiser.{name}": value for name, value in trainer.optimiser.state().items()}
    tensors |= {"guard.usual": trainer.monitor.usual, "guard.seen": trainer.monitor.seen}
    if trainer.bank is not None:
        tensors["bank"] = trainer.bank.code
    return tensors, json.dumps(vars(trainer.progress))


def restore(trainer: Trainer, tensors: dict[str, Tensor], progress: str) -> None:
    """Put a training into the state that `state_of` gave."""
    tensors = {name: value.to(trainer.parallel.device) for name, value in tensors.items()}
    trainer.model.load_state_dict(_below(tensors, "model."))
    trainer.optimiser.restore(_below(tensors, "optimiser."))
    trainer.monitor.usual, trainer.monitor.seen = tensors["guard.usual"], tensors["guard.seen"]
    if trainer.bank is not None:
        trainer.bank.code.copy_(tensors["bank"])
    trainer.progress = Progress(**json.loads(progress))
    trainer.last_valid = LastValidState(trainer.model, trainer.optimiser)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
