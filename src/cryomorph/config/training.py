"""What any training may be asked, whatever the method: schedule, poses, machine."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cryomorph.config.prepare import ImageSource


@dataclass(frozen=True)
class TrainingConfig:
    """How long, how fast and on what to train. Where no default is shown, the recipe chooses."""

    epochs: int | None = None
    """Passes over the particles at most; training ends earlier when the held-out loss is flat. Default recipe: enough
    for 25,000 images, between 3 and 8."""
    batch_size: int | None = None
    """Images in a step, over all processes together."""
    optimiser: Literal["muon", "adam"] | None = None
    """Adam for all weights, as in the papers, or Muon for the matrices: far fewer steps."""
    learning_rate: float | None = None
    """Adam's learning rate at its highest; Muon's is five times as high."""
    latent_rate: float | None = None
    """Share of a full step that a particle's latent point takes in the table at each visit, 0 to 1."""
    rate_schedule: Literal["constant", "cosine", "linear", "decay"] | None = None
    """How the learning rate falls over the epochs; decay is by 5 % after each."""
    final_latents: Literal["auto", "table", "gradient"] | None = None
    """Latent points at the end: the table's as they are, or found anew by Gauss-Newton under the final weights; auto
    takes what predicts held-out images better, and the table's where they have moved (--latent-rate)."""
    beta: float | None = None
    """Weight of the latent's divergence from its prior, in the papers' units: 2 is the exact evidence lower bound."""
    beta_schedule: Literal["constant", "linear", "cyclic"] | None = None
    """How that weight grows, and --prior-weight with it: linear over the whole training, cyclic four times."""
    prior: Literal["normal", "disentangle"] | None = None
    """What latent points should be like beside: disentangle (OPUS-DSD) draws batches from one direction of view, pulls
    together what is alike in any direction, and pushes apart what differs."""
    prior_weight: float | None = None
    """Weight of --prior disentangle, in nats (the paper: 0.5 to 1)."""
    projection_classes: Literal[12, 48, 192] | None = None
    """Directions of view that --prior disentangle tells apart (default: 48, or 12 for fewer than 4,800 particles)."""
    pose_spread: float = 0.0
    """Compare each image in eight neighbouring orientations too, so many degrees away, each counted by its likelihood:
    about the orientations' error; 0 takes them as exact."""
    noise: Literal["radial", "white"] | None = None
    """Noise model: a power for each shell, measured, or one for all."""
    first_band: float | None = None
    """Band limit to begin with, in Fourier pixels (default: 24, at most the box); it grows to all."""
    band_share: float | None = None
    """Share of the epochs over which the band grows; 0 is the full band from the start."""
    held_out: float | None = None
    """Share of the particles, at most 2,000, that the model is not fitted to, to see when it stops improving."""
    final_model: Literal["last", "best"] | None = None
    """Model at the end: the last epoch's, or that of the epoch with the least held-out loss, as in OPUS-DSD; epochs in
    which the band grows do not count."""
    patience: int | None = None
    """End when the held-out loss was flat for so many epochs; 0 never ends early."""
    refine_poses: bool = False
    """Refine every particle's orientation and shift too, against maps of the half set that it is not in; how far off
    the given ones are is learned from all of them. Gaussians, and the paper recipe of the others, do it again, or
    instead, against each particle's own conformation: see --pose-epoch."""
    pose_epoch: int = 2
    """Where poses are refined against the model itself: epochs before the first time. Gaussians do it once more at the
    end; the paper recipes of the others do it after every epoch from then on."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the network's products; auto is bfloat16 where the machine multiplies it faster. Gaussians are
    float32 always."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """Compile a neural field's network for the device; auto does so on a GPU. The other methods have nothing to
    compile."""
    device: str = "auto"
    """Device to train on: cpu, cuda, cuda:1, or auto, which takes a GPU where there is one."""
    checkpoint_minutes: float = 10.0
    """Time between checkpoints within an epoch; one is written after every epoch too."""


EVERY: dict[str, Any] = {"held_out": 0.05, "final_model": "last", "prior": "normal", "prior_weight": 0.5}
"""What recipes choose that say nothing else."""
PULLED = 0.3


@dataclass(frozen=True)
class MethodConfig:
    """What every trained method may be asked beside its network."""

    own_conformations = False  # whether poses are refined against them by every recipe, or the papers'
    particles: tyro.conf.Positional[Path]
    """A particle file (.star, .cs, .txt, .mrcs), prepared on the fly into RUN/particles, or a store from `prepare`."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Run folder to make."""
    zdim: int = 8
    """Dimension of the latent space; 0 is one map of all particles."""
    recipe: Literal["default", "paper"] = "default"
    """Schedule: default is ours, paper is that of the publication, for comparison."""
    config: Path | None = None
    """Take all options that are not given here from this file: another run's config.json."""
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)
    """How long, how fast and on what to train."""
    linear_zdim: int | None = None
    """Components of the linear stage (default: zdim, at most 20; 6 where zdim is 1)."""
    linear_band: int = 24
    """Band limit of the linear stage and of the warm start, in Fourier pixels."""
    warm_steps: int | None = None
    """Steps of fitting the model to the linear maps before it sees an image."""
    mask: str = "auto"
    """Where the linear maps may differ: a mask file in the working box, sphere, or auto."""
    images: Annotated[ImageSource, tyro.conf.arg(name="")] = field(default_factory=ImageSource)
    """Where the images are and how to take them in."""
    seed: int = 0
    """Seed of everything that is drawn at random."""
    resume: bool = False
    """Go on with a run that was interrupted, from its last checkpoint."""
    overwrite: bool = False
    """Replace a run that is there already."""

    @property
    def refines_against_model(self) -> bool:
        """Whether poses are refined against each particle's own conformation while the model is trained."""
        return self.training.refine_poses and (self.own_conformations or self.recipe == "paper")

    def poses_due(self, epoch: int, epochs: int) -> bool:
        """Whether poses are refined after so many epochs: from the first time on, or then and at the end."""
        first = self.training.pose_epoch
        return epoch in (first, epochs) if self.own_conformations else first <= epoch <= epochs


ONE_COORDINATE = 6  # linear components for a latent space of one dimension: a curved line needs several
MOST_COMPONENTS = 20


def resolved_by(config: Any, chosen: dict[str, Any]) -> Any:
    """A method's config with everything filled in from what a recipe chose; encoders are as large as the network."""
    components = ONE_COORDINATE if config.zdim == 1 else min(config.zdim, MOST_COMPONENTS)
    network = filled(config.network, chosen)
    every = EVERY | {"linear_zdim": components} | chosen
    if config.training.prior == "disentangle" and not every.get("latent_rate"):
        every["latent_rate"] = PULLED  # a table that stays where it is could not follow a prior
    if "width" in chosen:
        every = {"encoder_width": network.width, "encoder_layers": network.layers} | every
    return filled(replace(config, network=filled(network, every), training=filled(config.training, every)), every)


def filled(part: Any, chosen: dict[str, Any]) -> Any:
    """A dataclass whose empty fields take the values chosen for them."""
    empty = [f.name for f in fields(part) if getattr(part, f.name) is None and f.name in chosen]
    return replace(part, **{name: chosen[name] for name in empty})
