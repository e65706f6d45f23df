"""The `paper` recipe of `abinit`: poses are searched against a network while it is trained.

Zhong et al., ICLR 2020, sections 3 and 5. A neural field is trained on images at random poses first, until it is a blob
of about the right size; then on each image at the best pose that a search against the field finds; finally at these
poses, which are kept fixed. There are no random starts to choose from and no half sets, and the networks are the only
reconstructions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from time import perf_counter

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.abinit.half_sets import whitened_batches
from cryomorph.abinit.record import describe_changes, pose_changes, write_poses, write_round
from cryomorph.compute.batch_threads import BatchThreads
from cryomorph.compute.distributed import Parallel
from cryomorph.config.abinit import AbinitConfig, PaperConfig
from cryomorph.config.neural_field import NetworkConfig, NeuralFieldConfig, neural_field_by_recipe
from cryomorph.config.training import TrainingConfig
from cryomorph.encoders.poses import PoseTable
from cryomorph.methods.neural_field import NEURAL_FIELD, build_model, resolve
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose, random_rotations, rotvec_from_rotation
from cryomorph.poses.search import SearchPlan, search_poses, usual_plan
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.folder import RunFolder, checkpoints
from cryomorph.training.consensus import Consensus
from cryomorph.training.device import compile_network, release, threads_for
from cryomorph.training.loop import train
from cryomorph.training.session import Session
from cryomorph.training.stages.consensus import consensus
from cryomorph.training.stages.encode import encode
from cryomorph.training.stages.joint import joint
from cryomorph.training.trainer import Trainer

MIN_SEARCHES, SEARCHED_IMAGES = 4, 200_000  # the paper's 4 epochs of 50,000 images, or as many images
REFRESH = 1000  # images that are searched against one state of the network
STATES = 32  # latent points whose maps span the subspace that poses are searched against
MAX_COMPONENTS = 4  # of that subspace
SEARCH = "search-"  # prefix of checkpoints and records while poses are searched
SEARCHED = "checkpoints/searched.safetensors"


def find_by_network(
    run: RunFolder, given: ParticleStore, store: ParticleStore, *, config: AbinitConfig, device: torch.device
) -> None:
    """Estimate poses and model by training networks; this completes the run.

    Args:
        given: the particles with the poses of their file, if it has any.
        store: see `ParticleStore.unposed`.
    """
    processes = Parallel(0, 1, device)
    path = run.path / SEARCHED
    if not path.is_file():
        model = train_with_search(run, store, config, processes=processes)
        save_tensors(path, {name: value.cpu() for name, value in model.state_dict().items()})
    for old in checkpoints(run.path, SEARCH):
        old.unlink()
    state = load_tensors(path)[0]
    pose = pose_of(state.pop("poses.offset"), store)
    write_poses(run, given, pose)
    options = resolve(final_config(config), store, device)
    session = Session(NEURAL_FIELD, options, run=run, store=store.with_pose(pose), parallel=processes)
    consensus(session)
    session.model = session.build()
    if config.zdim:
        session.model.load_state_dict(state)
    joint(session)
    encode(session)


def train_with_search(
    run: RunFolder, store: ParticleStore, config: AbinitConfig, *, processes: Parallel
) -> Heterogeneous:
    """Train a network at random poses, then at poses that are searched against it; its `poses` are the final ones.

    Args:
        store: see `ParticleStore.unposed`.
    """
    begin, asked = perf_counter(), resolve(search_config(config, len(store)), store, processes.device)
    plan = asked.training
    model = build_model(asked, store, Consensus.unknown(store), targets=None).to(processes.device)
    compile_network(model.representation, "auto", processes.device)
    threads = threads_for(processes.device, plan.batch_size, model.representation)
    trainer = Trainer(model, store, plan, parallel=processes, seed=config.seed, threads=threads)
    search = PoseSearch(run, trainer, config, threads)
    with threads:
        train(
            trainer,
            run,
            before_epoch=search.before_epoch,
            before_step=search.before_step,
            after_epoch=search.after_epoch,
            name=SEARCH,
        )
    release(model.representation)
    run.log(f"poses: {trainer.progress.epoch} epochs; {perf_counter() - begin:.1f} s")
    return model


@dataclass
class PoseSearch:
    """Hooks of a training that set the poses of the particles of the next steps: random at first, then searched."""

    run: RunFolder
    trainer: Trainer
    config: AbinitConfig
    threads: BatchThreads
    begin: float = 0.0
    seconds: float = 0.0
    rate_factor: float = 1.0
    """The trainer's last one: it falls when the model and its poses were restored to the last valid state."""
    before: Tensor | None = field(default=None, repr=False)

    @property
    def poses(self) -> PoseTable:
        """Current poses of all particles."""
        if self.trainer.model.poses is None:
            raise RuntimeError("the model has no table of poses")
        return self.trainer.model.poses

    @property
    def first(self) -> int:
        """The first epoch without random poses."""
        return first_search(self.config.paper, len(self.trainer.store))

    @property
    def due(self) -> bool:
        """Whether poses are searched in this epoch, after the epochs at random poses."""
        epoch = self.trainer.progress.epoch
        return epoch < self.first or (epoch - self.first) % self.config.paper.search_every == 0

    def before_epoch(self) -> None:
        """Remember the poses before the epoch; they are unknown when a run is resumed within an epoch."""
        now = self.trainer.progress
        self.begin, self.seconds, self.rate_factor = perf_counter(), 0.0, now.rate_factor
        self.before = None if now.step else self.poses.offset.clone()

    @torch.no_grad()
    def before_step(self) -> None:
        """Set the poses of the particles of the next steps, before the first of these steps."""
        trainer, now = self.trainer, self.trainer.progress
        steps = max(1, REFRESH // trainer.batch_size)
        if now.step % steps and now.rate_factor == self.rate_factor:
            return
        self.rate_factor = now.rate_factor
        coming = trainer.upcoming(steps).sort().values
        place = now.epoch * trainer.steps + now.step
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + place)
        if place * trainer.batch_size < self.config.paper.random_images:
            self._set_poses(coming, random_rotations(len(coming), generator), torch.zeros(len(coming), 2))
        elif self.due:
            begin = perf_counter()
            with self.threads.paused():
                self._search(coming, generator)
            self.seconds += perf_counter() - begin

    @torch.no_grad()
    def after_epoch(self) -> None:
        """Write an epoch's map and report how poses changed."""
        trainer, epoch = self.trainer, self.trainer.progress.epoch
        store, number = trainer.store, epoch + 1
        if not self.due:
            return
        now, every = pose_of(self.poses.offset.cpu(), store), torch.arange(len(store))
        z = sampled_points(trainer.model, store, every, generator=torch.Generator().manual_seed(0)).mean(0)
        mean_map = trainer.model.representation.volume(z, store.box).cpu()
        write_round(self.run, number, mean_map, rotation=now.rotation, store=store)
        searching = epoch >= self.first
        changes: dict[str, float] = {}
        if self.before is not None and epoch > self.first:
            changes = pose_changes(now, pose_of(self.before.cpu(), store), every)
        stage = "search" if searching else "random"
        radius = search_plan(store, self.config).levels[-1].radius if searching else store.box // 2
        seconds = perf_counter() - self.begin
        self.run.record(stage=stage, step=number, band=radius, images=len(store), seconds=seconds, **changes)
        self.run.log(
            f"epoch {number} of {trainer.epochs}, {'poses searched' if searching else 'random poses'}"
            f"{describe_changes(changes)}; {seconds:.1f} s, {self.seconds:.1f} s of them searching"
        )

    def _search(self, coming: Int64[Tensor, " k"], generator: torch.Generator) -> None:
        trainer, store = self.trainer, self.trainer.store
        plan = search_plan(store, self.config)
        radius = plan.levels[-1].radius
        maps = spanning_maps(trainer.model, store, coming, box=2 * int(radius + 1), generator=generator)
        noise = torch.ones(store.box // 2 + 1)  # the store's noise has variance 1
        device = trainer.parallel.device
        batches = whitened_batches(store, coming, radius, noise=noise, device=device, advance=lambda count: None)
        offset = random_rotations(1, generator)[0]
        found = search_poses(LinearSubspace(maps), batches, plan, disk=store.disk.within(radius), offset=offset)
        self._set_poses(coming, found.rotation, found.shift)

    def _set_poses(
        self, index: Int64[Tensor, " k"], rotation: Float32[Tensor, "k 3 3"], shift: Float32[Tensor, "k 2"]
    ) -> None:
        found = torch.cat([rotvec_from_rotation(rotation), shift], dim=1)
        self.poses.offset[index] = found.to(self.poses.offset)


def first_search(paper: PaperConfig, particles: int) -> int:
    """The first epoch in which all poses are searched."""
    return math.ceil(paper.random_images / particles)


def search_plan(store: ParticleStore, config: AbinitConfig) -> SearchPlan:
    """The search, with as many candidates as cryoDRGN keeps."""
    return usual_plan(store.box, min(config.search_radius, store.box // 2 - 1), shift_range=config.shift_range)


def pose_of(offset: Float32[Tensor, "n 5"], store: ParticleStore) -> Pose:
    """The poses of a table of offsets from the store's identity poses."""
    table = PoseTable(len(store))
    table.offset = offset
    return table.corrected(store.require_pose(), store.pixel_A)


@torch.no_grad()
def spanning_maps(
    model: Heterogeneous, store: ParticleStore, index: Int64[Tensor, " k"], *, box: int, generator: torch.Generator
) -> Float32[Tensor, "c z y x"]:
    """Mean and principal components of a model's maps at the latent points of a few particles.

    A component has the length of one standard deviation, so that `z ~ N(0, I)` (docs/methods.md, "Linear subspace").
    """
    representation = model.representation
    z = sampled_points(model, store, index, generator=generator)
    if not representation.zdim:
        return representation.volume(z[0], box)[None]
    maps = representation.volumes(z, box)
    mean = maps.mean(0)
    _, singular, vectors = torch.linalg.svd((maps - mean).flatten(1), full_matrices=False)
    count = min(representation.zdim, MAX_COMPONENTS)
    components = vectors[:count] * (singular[:count] / len(maps) ** 0.5)[:, None]
    return torch.cat([mean[None], components.unflatten(1, mean.shape)])


def sampled_points(
    model: Heterogeneous, store: ParticleStore, index: Int64[Tensor, " k"], *, generator: torch.Generator
) -> Float32[Tensor, "s zdim"]:
    """Latent points of a few particles, each drawn from its posterior by the encoder."""
    few = index[torch.randperm(len(index), generator=generator)[:STATES]].sort().values
    device = model.prior_std.device
    noise = torch.randn(len(few), model.representation.zdim, generator=generator).to(device)
    if not model.representation.zdim:
        return noise
    batch = model.prepare_batch(store.batch(few, store.disk.size).to(device), store.disk)
    return model.posterior(batch).sample(noise)


def search_config(config: AbinitConfig, particles: int) -> NeuralFieldConfig[None]:
    """The network that poses are searched against, and its training."""
    paper = config.paper
    searches = paper.searches or max(MIN_SEARCHES, math.ceil(SEARCHED_IMAGES / particles))
    epochs = first_search(paper, particles) + 1 + (searches - 1) * paper.search_every
    training: TrainingConfig[None] = TrainingConfig(
        epochs=epochs,
        batch_size=batch_size(config),
        learning_rate=paper.learning_rate,
        held_out=0.0,
        refine_poses=True,  # the model has a table of poses
        device=config.device,
    )
    return _network(config, width=paper.width, training=training)


def final_config(config: AbinitConfig) -> NeuralFieldConfig[None]:
    """The network that is trained at the poses found, and its training."""
    paper = config.paper
    training: TrainingConfig[None] = TrainingConfig(
        epochs=paper.final_epochs or (10 if config.zdim else 15),
        batch_size=batch_size(config),
        learning_rate=paper.learning_rate,
        device=config.device,
    )
    return _network(config, width=paper.width if config.zdim else paper.final_width, training=training)


def batch_size(config: AbinitConfig) -> int:
    """Images per step: the paper's, without and with a latent space."""
    return config.paper.batch_size or (5 if config.zdim else 10)


def _network(config: AbinitConfig, *, width: int, training: TrainingConfig[None]) -> NeuralFieldConfig[None]:
    return neural_field_by_recipe(
        NeuralFieldConfig(
            config.particles,
            config.output,
            zdim=config.zdim,
            recipe="paper",
            network=NetworkConfig(width=width, layers=config.paper.layers),
            training=training,
            seed=config.seed,
        )
    )
