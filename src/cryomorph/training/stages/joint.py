"""Joint training of representation and latent points on the images."""

from __future__ import annotations

from time import perf_counter

import torch
from jaxtyping import Int64
from torch import Tensor

from cryomorph.config.training import ResolvedMethod
from cryomorph.particles.projection_class import projection_classes
from cryomorph.poses.refine import refine_poses
from cryomorph.training.device import compile_network, threads_for
from cryomorph.training.loop import train
from cryomorph.training.session import Session
from cryomorph.training.trainer import Trainer


def joint(session: Session[ResolvedMethod]) -> None:
    """Train the model on the images, refining poses against it where that was requested."""
    config, parallel, model = session.config, session.parallel, session.model
    begin = perf_counter()
    compile_network(model.representation, config.training.compile, parallel.device)
    threads = threads_for(parallel.device, config.training.batch_size // parallel.world_size, model.representation)
    trainer = Trainer(
        model,
        session.store,
        config.training,
        parallel=parallel,
        seed=config.seed,
        threads=threads,
        projection_class=projection_class_for(session),
    )

    def refine(epoch: int) -> None:
        if model.poses is None or not config.poses_due(epoch, trainer.epochs):
            return
        model.eval()
        with threads.paused():
            facts = refine_poses(
                model,
                session.store,
                parallel.shard(torch.arange(len(session.store))),
                disk=trainer.disk,
                all_reduce_sum=parallel.all_reduce_sum,
                half_precision=config.training.precision == "bfloat16",
            )
        model.train()
        parallel.all_gather_rows(model.poses.offset)
        session.run.record(stage="poses", round=epoch, **facts)

    def after_epoch() -> None:
        session.method.close_epoch(session)
        refine(trainer.progress.epoch + 1)

    def before_epoch() -> None:
        session.method.open_epoch(session, trainer.progress.epoch, trainer.epochs)

    with threads:
        train(trainer, session.run, before_epoch=before_epoch, after_epoch=after_epoch)
        if trainer.progress.stopped and not config.poses_due(trainer.progress.epoch, trainer.epochs):
            refine(trainer.epochs)  # the refinement planned for the last epoch
    session.run.log(f"joint: {trainer.progress.epoch} epochs; {perf_counter() - begin:.1f} s")


def projection_class_for(session: Session[ResolvedMethod]) -> Int64[Tensor, " n"] | None:
    """The class of each particle's viewing direction, for the disentanglement prior."""
    training = session.config.training
    if training.prior != "disentangle":
        return None
    return projection_classes(session.store.require_pose().rotation, training.projection_classes)
