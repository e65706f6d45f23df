"""What any training may be asked, whatever the method: schedule, poses, machine."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal


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
    rate_schedule: Literal["constant", "cosine", "linear"] | None = None
    """How the learning rate falls over the epochs."""
    final_latents: Literal["auto", "table", "gradient"] | None = None
    """Latent points at the end: the table's as they are, or found anew by Gauss-Newton under the final weights; auto
    takes what predicts held-out images better, and the table's where they have moved (--latent-rate)."""
    beta: float | None = None
    """Weight of the latent's divergence from its prior, in the papers' units: 2 is the exact evidence lower bound."""
    beta_schedule: Literal["constant", "linear", "cyclic"] | None = None
    """How that weight grows: linear over the whole training, cyclic four times."""
    noise: Literal["radial", "white"] | None = None
    """Noise model: a power for each shell, measured, or one for all."""
    first_band: float | None = None
    """Band limit to begin with, in Fourier pixels (default: 24, at most the box); it grows to all."""
    band_share: float | None = None
    """Share of the epochs over which the band grows; 0 is the full band from the start."""
    held_out: float = 0.05
    """Share of the particles, at most 2,000, that the model is not fitted to, to see when it stops improving."""
    patience: int | None = None
    """End when the held-out loss was flat for so many epochs; 0 never ends early."""
    refine_poses: bool = False
    """Refine every particle's orientation and shift too, against maps of the half set that it is not in; how far off
    the given ones are is learned from all of them. Gaussians do it again against each particle's own conformation,
    after --pose-epoch and at the end."""
    pose_epoch: int = 2
    """Where poses are refined against the model itself: epochs before the first time. The neural field's paper recipe
    does it after every epoch from then on."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the network's products; auto is bfloat16 where the machine multiplies it faster. Gaussians are
    float32 always."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """Compile a neural field's network for the device; auto does so on a GPU. Gaussians have nothing to compile."""
    device: str = "auto"
    """Device to train on: cpu, cuda, cuda:1, or auto, which takes a GPU where there is one."""
    checkpoint_minutes: float = 10.0
    """Time between checkpoints within an epoch; one is written after every epoch too."""


ONE_COORDINATE = 6  # linear components for a latent space of one dimension: a curved line needs several
MOST_COMPONENTS = 20


def resolved_by(config: Any, chosen: dict[str, Any]) -> Any:
    """A method's config with everything filled in from what a recipe chose; encoders are as large as the network."""
    components = ONE_COORDINATE if config.zdim == 1 else min(config.zdim, MOST_COMPONENTS)
    network = filled(config.network, chosen)
    every = {"linear_zdim": components, "encoder_width": network.width, "encoder_layers": network.layers} | chosen
    return filled(replace(config, network=filled(network, every), training=filled(config.training, every)), every)


def filled(part: Any, chosen: dict[str, Any]) -> Any:
    """A dataclass whose empty fields take the values chosen for them."""
    empty = [f.name for f in fields(part) if getattr(part, f.name) is None and f.name in chosen]
    return replace(part, **{name: chosen[name] for name in empty})
