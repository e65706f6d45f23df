"""Options of every trained method: schedule, poses, machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Never, TypeAlias

import tyro

from cryomorph.config.choices import UNSET, Open, filled
from cryomorph.config.prepare import ImageSource


@dataclass(frozen=True)
class TrainingConfig(Generic[Open]):
    """How long, how fast and on which device to train. Options without a default are set by the recipe."""

    epochs: int | Open = UNSET
    """Maximum number of epochs; training ends earlier once the held-out loss is flat. Default recipe: enough for
    25,000 images, between 3 and 8."""
    batch_size: int | Open = UNSET
    """Images per step, over all processes."""
    optimiser: Literal["muon", "adam"] | Open = UNSET
    """Adam for all weights, as in the papers, or Muon for the weight matrices, which needs far fewer steps."""
    learning_rate: float | Open = UNSET
    """Peak learning rate of Adam; Muon's is five times as high."""
    latent_rate: float | Open = UNSET
    """Fraction of a full Newton step, 0 to 1, by which a particle's latent point in the table moves at each visit."""
    rate_schedule: Literal["constant", "cosine", "linear", "decay"] | Open = UNSET
    """How the learning rate falls over the epochs; decay is by 5 % per epoch."""
    final_latents: Literal["auto", "table", "gradient"] | Open = UNSET
    """Final latent points: those of the table, or re-estimated by Gauss-Newton under the final weights. auto takes
    whichever predicts held-out images better, and the table's if training has moved them (--latent-rate)."""
    beta: float | Open = UNSET
    """Weight of the KL divergence from the prior, in the papers' units: 2 is the exact evidence lower bound."""
    beta_schedule: Literal["constant", "linear", "cyclic"] | Open = UNSET
    """How beta and --prior-weight grow: linearly over the whole training, or in four cycles."""
    prior: Literal["normal", "disentangle"] | Open = UNSET
    """Prior of the latent points. disentangle (OPUS-DSD) draws each batch from one viewing direction, attracts
    similar particles of any direction, and repels dissimilar ones."""
    prior_weight: float | Open = UNSET
    """Weight of --prior disentangle, in nats (the paper: 0.5 to 1)."""
    projection_classes: Literal[12, 48, 192] | Open = UNSET
    """Number of viewing directions that --prior disentangle distinguishes (default: 48, or 12 for fewer than 4,800
    particles)."""
    pose_spread: float = 0.0
    """Also compare each image in eight orientations this many degrees away, weighted by their likelihood: about the
    error of the given orientations. 0 takes them as exact."""
    noise: Literal["radial", "white"] | Open = UNSET
    """Noise model: one measured power per resolution shell, or one power for all."""
    first_radius: float | Open = UNSET
    """Initial band limit in Fourier pixels; it grows to Nyquist (default: 24, or Nyquist if that is less)."""
    radius_share: float | Open = UNSET
    """Fraction of the epochs over which the band limit grows; 0 uses all coefficients from the start."""
    held_out: float | Open = UNSET
    """Fraction of the particles, at most 2,000, held out from fitting the model, to detect when it stops improving."""
    final_model: Literal["last", "best"] | Open = UNSET
    """Final model: that of the last epoch, or of the epoch with the lowest held-out loss, as in OPUS-DSD. Epochs
    before the band limit reaches Nyquist do not count."""
    patience: int | Open = UNSET
    """Stop once the held-out loss has been flat for this many epochs; 0 never stops early."""
    refine_poses: bool = False
    """Also refine the orientation and shift of every particle against the conformation that the model gives it; the
    size of the errors is estimated from all particles. The linear stage corrects poses in any case, unless
    --fix-poses."""
    pose_epoch: int = 2
    """Number of epochs before poses are first refined against the model; once more at the end, or, with --recipe
    paper, after every further epoch."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the network's matrix products. auto is bfloat16 if this machine multiplies it faster;
    Gaussians are always float32."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """Compile the network of a neural field with torch.compile; auto does so on a GPU. The other methods have nothing
    to compile."""
    device: str = "auto"
    """Device to train on: cpu, cuda, cuda:1, or auto, which uses a GPU if there is one."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints within an epoch; one is always written after each epoch."""


@dataclass(frozen=True)
class MethodConfig(Generic[Open]):
    """Options that all trained methods share, besides those of their networks."""

    particles: tyro.conf.Positional[Path]
    """Particle file (.star, .cs, .txt, .mrcs), prepared into RUN/particles, or a store made by `prepare`."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Run folder to create."""
    zdim: int = 8
    """Dimension of the latent space; 0 fits one map to all particles."""
    recipe: Literal["default", "paper"] = "default"
    """Settings to start from: ours, or those of the publication, for comparison."""
    config: Path | None = None
    """Take all options that are not given on the command line from this file: config.json of another run."""
    training: Annotated[TrainingConfig[Open], tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)
    """How long, how fast and on which device to train."""
    linear_zdim: int | Open = UNSET
    """Components of the linear stage (default: zdim, at most 20; 6 if zdim is 1)."""
    linear_radius: int = 24
    """Band limit of the linear stage and of the warm start, in Fourier pixels."""
    warm_steps: int | Open = UNSET
    """Steps of fitting the model to the linear maps before training on images."""
    contrast: bool = True
    """Estimate the contrast of each particle in the linear stage; the model is trained with it."""
    fix_poses: bool = False
    """Take the given poses as they are. By default the linear stage estimates the errors of each particle's rotation
    and shift, and the model is trained at the corrected poses."""
    mask: str = "auto"
    """Where the linear maps may differ: a mask file of any box and pixel size, sphere, or auto."""
    images: Annotated[ImageSource, tyro.conf.arg(name="")] = field(default_factory=ImageSource)
    """Where the images are and how to read them."""
    seed: int = 0
    """Seed of all random numbers."""
    resume: bool = False
    """Continue an interrupted run from its last checkpoint."""
    overwrite: bool = False
    """Replace an existing run."""

    @property
    def device(self) -> str:
        """Device to train on."""
        return self.training.device

    def poses_due(self, epoch: int, epochs: int) -> bool:
        """Whether poses are refined after this epoch of `epochs`."""
        first = self.training.pose_epoch
        return first <= epoch <= epochs if self.recipe == "paper" else epoch in (first, epochs)


ResolvedTraining: TypeAlias = TrainingConfig[Never]
ResolvedMethod: TypeAlias = MethodConfig[Never]

EVERY_RECIPE: dict[str, Any] = {"held_out": 0.05, "final_model": "last", "prior": "normal", "prior_weight": 0.5}
"""Settings of all recipes that do not say otherwise."""
LATENT_RATE_UNDER_PRIOR = 0.3  # a table that stays where it is could not follow a prior
COMPONENTS_FOR_ONE = 6  # linear components for a latent space of one dimension: a curved line needs several
MOST_COMPONENTS = 20


def by_recipe(config: Any, settings: dict[str, Any]) -> Any:
    """A method's config with a recipe's settings wherever the user left the choice open.

    The encoder network is as large as the representation's unless the user says otherwise. Choices that depend on the
    particles stay open: see `cryomorph.training.resolve`.
    """
    components = COMPONENTS_FOR_ONE if config.zdim == 1 else min(config.zdim, MOST_COMPONENTS)
    every = EVERY_RECIPE | {"linear_zdim": components} | settings
    if config.training.prior == "disentangle" and not every.get("latent_rate"):
        every["latent_rate"] = LATENT_RATE_UNDER_PRIOR
    if "width" in settings:
        network = filled(config.network, settings)
        every = {"encoder_width": network.width, "encoder_layers": network.layers} | every
    return filled(config, every)
