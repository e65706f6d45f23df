"""The stages that the recipes of all trained methods are made of; each takes a session and leaves it richer."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from time import perf_counter

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.config.console import progress
from cryomorph.config.linear import LinearConfig
from cryomorph.encoders.conv import ConvEncoder
from cryomorph.encoders.table import TableEncoder
from cryomorph.io.mrc import write_map
from cryomorph.latents.empirical_bayes import empirical_bayes_posterior
from cryomorph.latents.encode import encode_amortised, encode_by_gradient
from cryomorph.latents.prediction_gain import LinearReference, prediction_gain
from cryomorph.models.registry import network_kind
from cryomorph.particles.metadata import rewrite_poses
from cryomorph.particles.projection_class import CLASSES, projection_classes
from cryomorph.poses.refine import refine_poses
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.snapshot import with_refined
from cryomorph.training.build import LinearStart, first_lesson
from cryomorph.training.device import compile_network, release
from cryomorph.training.distillation import average_transfer, warm_start
from cryomorph.training.loop import train
from cryomorph.training.measure import measure_trained
from cryomorph.training.session import Session, TrainedConfig, required, threads_for
from cryomorph.training.stages.linear import consensus_stage, linear_stage
from cryomorph.training.stages.refine_poses import refine_given_poses
from cryomorph.training.trainer import Trainer, split_held_out

WARM = "checkpoints/warm.safetensors"
WARM_BATCH = 16
POSE_COMPONENTS = 6
FEW_PER_CLASS = 100  # particles in a direction of view, on average, to tell so many apart


def poses(session: Session) -> None:
    """Where asked, the given poses refined by the linear method; all that follows is at the new ones."""
    if session.config.training.refine_poses:
        with session.parallel.rank_zero_first() as first:
            if first:
                # what these components cannot follow would be taken for a pose
                components = max(session.config.linear_zdim or 0, POSE_COMPONENTS) if session.config.zdim else 0
                asked = replace(linear_config(session.config), zdim=components)
                refine_given_poses(session.run, session.store, config=asked)
        session.store = with_refined(session.run.path, session.store)


def consensus(session: Session) -> None:
    """One map of all particles: its noise and its amplitude are what later stages start from."""
    with session.parallel.rank_zero_first():
        session.consensus = consensus_stage(session.run, session.store)


def linear(session: Session) -> None:
    """The linear subspace; without a latent space it is the consensus alone."""
    found = required(session.consensus)
    config = session.config
    if not config.zdim:
        nothing = torch.zeros(len(session.store), 0)
        session.linear = LinearStart(LinearSubspace(found.map[None]), nothing, nothing)
        session.lesson = first_lesson(session.linear, 0, seed=config.seed)
        return
    path = session.run.linear_start
    with session.parallel.rank_zero_first():
        if not path.is_file():
            fit = linear_stage(session.run, session.store, found, config=linear_config(config))
            kept = {"maps": fit.maps, "mean": fit.latent_mean, "std": fit.latent_std}
            save_tensors(path, kept | {"reproducibility": fit.reproducibility, "variance": fit.variance})
    tensors = load_tensors(path)[0]
    session.linear = LinearStart(LinearSubspace(tensors["maps"]), tensors["mean"], tensors["std"])
    session.lesson = first_lesson(session.linear, config.zdim, seed=config.seed)


def linear_config(config: TrainedConfig) -> LinearConfig:
    """The linear stage as a method's config describes it."""
    return LinearConfig(
        config.particles,
        config.output,
        zdim=config.linear_zdim or 0,
        max_radius=config.linear_band,
        mask=config.mask,
        seed=config.seed,
    )


def warm(session: Session) -> None:
    """Teach the model the linear maps; the particles' linear latent points are where its table starts."""
    config, start, lesson = session.config, required(session.linear), required(session.lesson)
    session.model = session.build()
    path = session.run.path / WARM
    with session.parallel.rank_zero_first() as alone:
        if alone and not path.is_file():
            begin = perf_counter()
            device = session.parallel.device
            with (
                threads_for(device, WARM_BATCH, session.model.representation) as threads,
                progress("warm start", config.warm_steps or 0) as advance,
            ):
                missing = warm_start(
                    session.model.representation,
                    start.subspace.to(device),
                    lesson,
                    transfer=average_transfer(session.store, session.model.whitening, seed=config.seed).to(device),
                    disk=session.store.disk.within(config.linear_band),
                    steps=config.warm_steps or 0,
                    batch_size=WARM_BATCH,
                    seed=config.seed,
                    half_precision=session.half_precision,
                    after_step=lambda step, share: advance(1, f"warm start, {share:.1%} of the linear maps missing"),
                    threads=threads,
                )
            save_tensors(path, session.model.state_dict())
            session.run.log(
                f"warm start: the model holds {1 - missing:.1%} of the linear maps' power; "
                f"{perf_counter() - begin:.1f} s"
            )
    session.model.load_state_dict(load_tensors(path)[0])


def joint(session: Session) -> None:
    """Train representation and latent points on the images."""
    config, parallel = session.config, session.parallel
    if session.model is None:
        session.model = session.build()
    model = session.model
    begin = perf_counter()
    compile_network(model.representation, config.training.compile, parallel.device)
    threads = threads_for(
        parallel.device, (config.training.batch_size or 1) // parallel.world_size, model.representation
    )
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
                half_precision=session.half_precision,
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
            refine(trainer.epochs)  # what was to come at the end comes now
    session.run.log(f"joint: {trainer.progress.epoch} epochs; {perf_counter() - begin:.1f} s")


def projection_class_for(session: Session) -> Int64[Tensor, " n"] | None:
    """The class of each particle's viewing direction, where the disentanglement prior is asked for."""
    config, store = session.config, session.store
    if config.training.prior != "disentangle":
        return None
    few = len(store) < FEW_PER_CLASS * CLASSES[1]
    count = config.training.projection_classes or (CLASSES[0] if few else CLASSES[1])
    return projection_classes(store.require_pose().rotation, count)


def encode(session: Session) -> None:
    """The latent point of every particle under the final weights; the run is complete after this."""
    model, run, parallel = required(session.model), session.run, session.parallel
    begin = perf_counter()
    model.eval().requires_grad_(False)
    share = parallel.shard(torch.arange(len(session.store)))
    if model.poses is not None:
        parallel.all_gather_rows(model.poses.offset)
    if session.config.zdim:
        mean, std = latents(session, share)
    else:
        mean = std = torch.zeros(len(session.store), 0)
    if parallel.is_rank_zero:
        finish(session, mean.cpu(), std.cpu())
        run.log(f"encode: {perf_counter() - begin:.1f} s")
    parallel.barrier()


def latents(
    session: Session, share: Int64[Tensor, " k"]
) -> tuple[Float32[Tensor, "n zdim"], Float32[Tensor, "n zdim"]]:
    """Means and standard deviations of all particles; `share` are those that this process is to look at."""
    model = required(session.model)
    session.anew = isinstance(model.encoder, TableEncoder) and by_gradient(session)
    if isinstance(model.encoder, TableEncoder) and not session.anew:
        return model.encoder.mean, model.encoder.std
    if isinstance(model.encoder, TableEncoder):
        mean, std = encode_by_gradient(model, session.store, share, half_precision=session.half_precision)
    else:
        mean, std = encode_amortised(model, session.store, share)
    session.parallel.all_gather_rows(mean)
    session.parallel.all_gather_rows(std)
    if isinstance(model.encoder, TableEncoder):
        return empirical_bayes_posterior(mean.cpu(), std.cpu(), model.prior_std.cpu(), seed=session.config.seed)
    if isinstance(model.encoder, ConvEncoder):
        mean = model.encoder.forget_view(session.store.require_pose().rotation, mean)
    return mean, std


def by_gradient(session: Session) -> bool:
    """Whether the table's latent points are found anew: as asked, or where held-out particles say that it is better."""
    asked = session.config.training.final_latents
    if asked != "auto":
        return asked == "gradient"
    start, model = required(session.linear), required(session.model)
    if start.mean.shape[1] != session.config.zdim or session.config.training.latent_rate:
        return False  # points that are not the linear model's have moved with the training already
    held, _ = split_held_out(
        len(session.store), session.config.training.held_out or 0.0, session.config.seed, copies=session.store.copies
    )
    if not len(held):
        return False
    with session.parallel.rank_zero_first() as alone:
        better = False
        if alone:
            reference = LinearReference(start.subspace.cpu(), start.prior_std)
            gains = prediction_gain(
                deepcopy(model).cpu(), session.store, reference, held=held, half_precision=session.half_precision
            )
            better = gains.is_significant
            gain, error = gains.by_trained
            session.run.log(
                f"latent points found anew predict held-out images better by {gain:.3f} +- {error:.3f} nats an image "
                f"({gains.by_linear[0]:.3f} by the linear model's maps): {'taken' if better else 'left'}"
            )
    return session.parallel.broadcast_flag(better)


def finish(session: Session, mean: Float32[Tensor, "n zdim"], std: Float32[Tensor, "n zdim"]) -> None:
    """Write what the run leaves behind; the model last."""
    run, model = session.run, required(session.model).cpu()
    release(model.representation)
    run.save_latent(mean, std)
    if session.config.training.refine_poses:
        pose = session.store.require_pose()
        if model.poses is not None:
            pose = model.poses.corrected(pose, session.store.pixel_A)
        run.save_pose(pose)
        store, manifest = session.store, session.store.manifest
        written, kept = store.folder / manifest.metadata, run.path / manifest.metadata
        rewrite_poses(written, kept, pose, pixel_A=manifest.source_pixel_A, copies=store.copies)
    if not session.config.zdim:
        volume = model.representation.volume(mean[0], session.store.box)
        write_map(run.path / "map.mrc", volume.numpy(), session.store.pixel_A)
    consensus_map = required(session.consensus).map
    measure_trained(model, session.store, (mean, std), consensus=consensus_map).write(run.path)
    extra = {"prior_std": model.prior_std, "whitening": model.whitening}
    if model.encoder is not None and network_kind(model.encoder):
        extra |= {f"encoder.{name}": value for name, value in model.encoder.state_dict().items()}
    facts = {"encoder": session.config.network.encoder or "", "latents": "gradient" if session.anew else "table"}
    session.method.leave(session)
    run.save_model(model.representation, extra, **facts)
