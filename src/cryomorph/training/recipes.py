"""The neural field's recipes: lists of stages, run one after another on one session."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import TypeVar

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.config.console import progress
from cryomorph.config.linear import LinearConfig
from cryomorph.config.neural_field import NeuralFieldConfig
from cryomorph.encoders.mlp import MlpEncoder
from cryomorph.encoders.table import TableEncoder
from cryomorph.inference.choose_latents import Rival, prediction_gain
from cryomorph.inference.encode import encode_amortised, encode_by_gradient
from cryomorph.inference.landscape_prior import under_landscape
from cryomorph.inference.pose_refine import refine_poses
from cryomorph.io.mrc import write_map
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.models.team import Team
from cryomorph.particles.metadata import rewrite_poses
from cryomorph.particles.store import ParticleStore
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.provenance import write_json
from cryomorph.runs.snapshot import with_refined
from cryomorph.training.build import LinearStart, build_model, first_lesson
from cryomorph.training.checks import check
from cryomorph.training.device import compile_network, release
from cryomorph.training.loop import train
from cryomorph.training.parallel import Parallel
from cryomorph.training.poses import refine_given_poses
from cryomorph.training.stages import Consensus, consensus_stage, linear_stage
from cryomorph.training.trainer import Trainer, split_held_out
from cryomorph.training.warm_start import Lesson, average_transfer, warm_start

WARM = "checkpoints/warm.safetensors"
WARM_BATCH = 16
POSE_COMPONENTS = 6
Latents = tuple[Float32[Tensor, "n zdim"], Float32[Tensor, "n zdim"]]


@dataclass
class Session:
    """A training in progress: what stages read and what they leave to the next."""

    run: RunFolder
    store: ParticleStore
    config: NeuralFieldConfig
    parallel: Parallel
    consensus: Consensus | None = None
    linear: LinearStart | None = None
    model: Heterogeneous | None = None
    anew: bool = False
    """Whether the latent points were found anew under the final weights."""

    @property
    def half_precision(self) -> bool:
        """Whether products are taken in bfloat16."""
        return self.config.training.precision == "bfloat16"


Stage = Callable[[Session], None]


def run_recipe(session: Session) -> None:
    """Run all stages of the recipe that the config names."""
    for stage in RECIPES[session.config.recipe]:
        stage(session)


def poses(session: Session) -> None:
    """Where asked, the given poses refined by the linear method; all that follows is at the new ones."""
    if session.config.training.refine_poses:
        with session.parallel.first_alone() as first:
            if first:
                # what these components cannot follow would be taken for a pose
                components = max(session.config.linear_zdim or 0, POSE_COMPONENTS) if session.config.zdim else 0
                asked = replace(linear_config(session.config), zdim=components)
                refine_given_poses(session.run, session.store, config=asked)
        session.store = with_refined(session.run.path, session.store)


def consensus(session: Session) -> None:
    """One map of all particles: its noise and its amplitude are what later stages start from."""
    with session.parallel.first_alone():
        session.consensus = consensus_stage(session.run, session.store)


def linear(session: Session) -> None:
    """The linear subspace; without a latent space it is the consensus alone."""
    found = _required(session.consensus)
    config = session.config
    if not config.zdim:
        nothing = torch.zeros(len(session.store), 0)
        session.linear = LinearStart(LinearSubspace(found.map[None]), nothing, nothing)
        return
    path = session.run.linear_start
    with session.parallel.first_alone():
        if not path.is_file():
            fit = linear_stage(session.run, session.store, found, config=linear_config(config))
            kept = {"maps": fit.maps, "mean": fit.latent_mean, "std": fit.latent_std}
            save_tensors(path, kept | {"reproducibility": fit.reproducibility, "variance": fit.variance})
    tensors = load_tensors(path)[0]
    session.linear = LinearStart(LinearSubspace(tensors["maps"]), tensors["mean"], tensors["std"])


def linear_config(config: NeuralFieldConfig) -> LinearConfig:
    """The linear stage as the field's config describes it."""
    return LinearConfig(
        config.particles,
        config.output,
        zdim=config.linear_zdim or 0,
        max_radius=config.linear_band,
        mask=config.mask,
        seed=config.seed,
    )


def warm(session: Session) -> None:
    """Teach the field the linear maps; the particles' linear latent points are where its table starts."""
    config, start = session.config, _required(session.linear)
    lesson = first_lesson(start, config.zdim, seed=config.seed)
    session.model = build_for(session, lesson)
    path = session.run.path / WARM
    with session.parallel.first_alone() as alone:
        if alone and not path.is_file():
            begin = perf_counter()
            device = session.parallel.device
            with team_for(device, WARM_BATCH) as team, progress("warm start", config.warm_steps or 0) as advance:
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
                    team=team,
                )
            save_tensors(path, session.model.state_dict())
            session.run.log(
                f"warm start: the field holds {1 - missing:.1%} of the linear maps' power; "
                f"{perf_counter() - begin:.1f} s"
            )
    session.model.load_state_dict(load_tensors(path)[0])


def joint(session: Session) -> None:
    """Train representation and latent points on the images."""
    config, parallel = session.config, session.parallel
    if session.model is None:
        session.model = build_for(session, None)
    model = session.model
    begin = perf_counter()
    compile_network(model.representation, config.training.compile, parallel.device)
    team = team_for(parallel.device, (config.training.batch_size or 1) // parallel.world)
    trainer = Trainer(model, session.store, config.training, parallel=parallel, seed=config.seed, team=team)

    def after_epoch() -> None:
        if model.poses is not None and trainer.progress.epoch + 1 >= config.training.pose_epoch:
            with team.at_rest():
                facts = refine_poses(
                    model,
                    session.store,
                    parallel.share(torch.arange(len(session.store))),
                    disk=trainer.disk,
                    total=parallel.total,
                    half_precision=session.half_precision,
                )
            parallel.gather_rows(model.poses.offset)
            session.run.record(stage="poses", round=trainer.progress.epoch + 1, **facts)

    with team:
        train(trainer, session.run, after_epoch)
    session.run.log(f"joint: {trainer.progress.epoch} epochs; {perf_counter() - begin:.1f} s")


def encode(session: Session) -> None:
    """The latent point of every particle under the final weights; the run is complete after this."""
    model, run, parallel = _required(session.model), session.run, session.parallel
    begin = perf_counter()
    model.eval().requires_grad_(False)
    share = parallel.share(torch.arange(len(session.store)))
    if model.poses is not None:
        parallel.gather_rows(model.poses.offset)
    if session.config.zdim:
        mean, std = latents(session, share)
    else:
        mean = std = torch.zeros(len(session.store), 0)
    if parallel.first:
        finish(session, mean.cpu(), std.cpu())
        run.log(f"encode: {perf_counter() - begin:.1f} s")
    parallel.barrier()


def latents(
    session: Session, share: Int64[Tensor, " k"]
) -> tuple[Float32[Tensor, "n zdim"], Float32[Tensor, "n zdim"]]:
    """Means and standard deviations of all particles; `share` are those that this process is to look at."""
    model = _required(session.model)
    session.anew = isinstance(model.encoder, TableEncoder) and by_gradient(session)
    if isinstance(model.encoder, TableEncoder) and not session.anew:
        return model.encoder.mean, model.encoder.std
    if isinstance(model.encoder, TableEncoder):
        mean, std = encode_by_gradient(model, session.store, share, half_precision=session.half_precision)
    else:
        mean, std = encode_amortised(model, session.store, share)
    session.parallel.gather_rows(mean)
    session.parallel.gather_rows(std)
    if isinstance(model.encoder, TableEncoder):
        return under_landscape(mean.cpu(), std.cpu(), model.prior_std.cpu(), seed=session.config.seed)
    return mean, std


def by_gradient(session: Session) -> bool:
    """Whether the table's latent points are found anew: as asked, or where held-out particles say that it is better."""
    asked = session.config.training.final_latents
    if asked != "auto":
        return asked == "gradient"
    start, model = _required(session.linear), _required(session.model)
    if start.mean.shape[1] != session.config.zdim:
        return False  # points in other coordinates than the linear model's have moved with the training already
    held, _ = split_held_out(len(session.store), session.config.training.held_out, session.config.seed)
    if not len(held):
        return False
    with session.parallel.first_alone() as alone:
        better = False
        if alone:
            rival = Rival(start.subspace.cpu(), start.prior_std)
            verdict = prediction_gain(
                deepcopy(model).cpu(), session.store, rival, held=held, half_precision=session.half_precision
            )
            better = verdict.clear
            gain, error = verdict.by_trained
            session.run.log(
                f"latent points found anew predict held-out images better by {gain:.3f} +- {error:.3f} nats an image "
                f"({verdict.by_linear[0]:.3f} by the linear model's maps): {'taken' if better else 'left'}"
            )
    return session.parallel.agreed(better)


RECIPES: dict[str, tuple[Stage, ...]] = {
    "default": (poses, consensus, linear, warm, joint, encode),
    "paper": (consensus, joint, encode),
}


def finish(session: Session, mean: Float32[Tensor, "n zdim"], std: Float32[Tensor, "n zdim"]) -> None:
    """Write what the run leaves behind; the model last."""
    run, model = session.run, _required(session.model).cpu()
    release(model.representation)
    run.save_latent(mean, std)
    if session.config.training.refine_poses:
        pose = session.store.require_pose()
        if model.poses is not None:
            pose = model.poses.corrected(pose, session.store.pixel_A)
        run.save_pose(pose)
        manifest = session.store.manifest
        written = session.store.folder / manifest.metadata
        rewrite_poses(written, run.path / manifest.metadata, pose, pixel_A=manifest.source_pixel_A)
    if not session.config.zdim:
        volume = model.representation.volume(mean[0], session.store.box)
        write_map(run.path / "map.mrc", volume.numpy(), session.store.pixel_A)
    checks = check(model, session.store, (mean, std), consensus=_required(session.consensus).map)
    write_json(run.path / "checks.json", asdict(checks))
    for sentence in checks.warnings():
        run.warn(sentence)
    extra = {"prior_std": model.prior_std, "whitening": model.whitening}
    if isinstance(model.encoder, MlpEncoder):
        extra |= {f"encoder.{name}": value for name, value in model.encoder.state_dict().items()}
    facts = {"encoder": session.config.network.encoder or "", "latents": "gradient" if session.anew else "table"}
    run.save_model(model.representation, extra, **facts)


def team_for(device: torch.device, images: int) -> Team:
    """Threads that share batches of so many images; a GPU needs none."""
    return Team(images if device.type == "cpu" else 1)


T = TypeVar("T")


def build_for(session: Session, lesson: Lesson | None) -> Heterogeneous:
    """The model of a session, on this process's device."""
    model = build_model(session.config, session.store, _required(session.consensus), lesson=lesson)
    return model.to(session.parallel.device)


def _required(value: T | None) -> T:
    """What an earlier stage left; a recipe that lacks that stage is a bug."""
    if value is None:
        raise RuntimeError("a stage of this recipe needs what an earlier one makes")
    return value
