"""What `cryomorph train gaussians` may be asked, and what its recipes choose."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cryomorph.config.training import MethodConfig, resolved_by

Change = Literal["positions", "amplitudes", "widths"]


@dataclass(frozen=True)
class MixtureConfig:
    """The Gaussians, what of them may change, and the networks. Where no default is shown, the recipe chooses."""

    gaussians: int | None = None
    """Number of Gaussians (default: doubled until the neutral map is matched at FSC 0.95 on average, or little more is
    gained)."""
    resolution: float | None = None
    """Resolution in Angstrom that the Gaussians are to match (default: that of the consensus at FSC 0.143)."""
    neutral: Literal["state", "consensus"] | None = None
    """Map that the Gaussians are seeded from: a state that lacks no part, in the middle of the latent space, or the
    consensus of all particles, as in the paper, where parts that move far are smeared out."""
    change: tuple[Change, ...] | None = None
    """What of the Gaussians may change from particle to particle; the paper recipe opens one after another."""
    parts: int | None = None
    """Rigid bodies that positions follow, blended where they meet; 0 moves each Gaussian by itself, as in the paper."""
    free: Path | None = None
    """Mask file in the working box: Gaussians outside it stay as they are. Or a text file of Gaussians that may change,
    one number a line, from 0, as gaussians.cif counts them in a run of the same particles, options and seed."""
    objective: Literal["likelihood", "frc"] | None = None
    """What is compared: the Gaussian likelihood, or the Fourier ring correlation, which no scale of images matters
    to."""
    rings: Literal["noise", "equal"] | None = None
    """Weights of rings in the correlation: by their number of coefficients and their noise, or all alike, as in the
    paper."""
    min_resolution: float | None = None
    """Rings of lower resolution than this, in Angstrom, do not count in the correlation (default: all count)."""
    width: int | None = None
    """Width of the network's hidden layers (the paper: 512)."""
    layers: int | None = None
    """Number of the network's hidden layers (the paper: 4)."""
    noisy: bool | None = None
    """Dropout and batch normalisation before the outputs, as in the paper."""
    spread_penalty: float | None = None
    """Weight of the variance of the Gaussians' log widths in the loss of a coefficient."""
    decay: float | None = None
    """Weight of the squares of the motion network's weights in the loss of a coefficient (the paper: 1e-3)."""
    encoder: Literal["table", "gradient", "mlp"] | None = None
    """Where latent points come from: a table with every particle's own, or a network that sees how the image would
    change the neutral Gaussians (the paper's), or one that sees the image."""
    encoder_width: int | None = None
    """Width of the encoder network (default: the network's)."""
    encoder_layers: int | None = None
    """Number of the encoder network's hidden layers (default: the network's)."""
    encoder_band: float | None = None
    """Band limit of what the mlp encoder sees, in Fourier pixels (default: all)."""
    encoder_spread: float | None = None
    """Fixed standard deviation of the gradient encoder's latent points, as in the paper; 0 lets the network say it."""


@dataclass(frozen=True)
class GaussiansConfig(MethodConfig):
    """Train a Gaussian mixture (e2gmm): the molecule as Gaussians that a network moves, adds and takes away.

    The default recipe starts from the linear method: its maps seed the Gaussians and teach the network, its latent
    points start the table, then all is trained on the images. Positions follow rigid bodies. The paper recipe is the
    publication's own, for comparison: the ring correlation, an encoder that sees gradients, every Gaussian by itself.
    `cryomorph motions RUN` shows what moves.
    """

    own_conformations = True
    zdim: int = 4
    """Dimension of the latent space; 0 is one mixture for all particles."""
    network: Annotated[MixtureConfig, tyro.conf.arg(name="")] = field(default_factory=MixtureConfig)
    """The Gaussians and the networks."""
    symmetry: str = "C1"
    """Point group of the molecule, as RELION names it: every particle is taken at all orientations that look the same,
    so that the motions of one unit are found: that of the mask given to --free, or one that is chosen."""
    neutral_steps: int = 200
    """Steps of fitting the neutral Gaussians to their map, at each band."""


DEFAULT: dict[str, Any] = {
    "neutral": "state",
    "change": ("positions", "amplitudes"),
    "parts": 16,
    "objective": "likelihood",
    "rings": "noise",
    "width": 128,
    "layers": 3,
    "noisy": False,
    "spread_penalty": 0.0,
    "decay": 0.0,
    "encoder": "table",
    "encoder_spread": 0.0,
    "optimiser": "muon",
    "latent_rate": 0.3,
    "final_latents": "auto",
    "batch_size": 16,
    "learning_rate": 1e-3,
    "rate_schedule": "cosine",
    "beta": 2.0,
    "beta_schedule": "constant",
    "noise": "radial",
    "band_share": 0.3,
    "patience": 3,
    "warm_steps": 300,
}
PAPER: dict[str, Any] = {
    "neutral": "consensus",
    "change": ("amplitudes", "positions"),
    "parts": 0,
    "objective": "frc",
    "rings": "equal",
    "width": 512,
    "layers": 4,
    "noisy": True,
    "spread_penalty": 1e-3,
    "decay": 1e-3,
    "encoder": "gradient",
    "encoder_spread": 0.1,
    "optimiser": "adam",
    "latent_rate": 0.0,
    "final_latents": "table",
    "epochs": 20,
    "batch_size": 8,
    "learning_rate": 1e-4,
    "rate_schedule": "constant",
    "beta": 0.01,
    "beta_schedule": "constant",
    "noise": "white",
    "band_share": 0.0,
    "patience": 0,
    "warm_steps": 0,
}
RECIPES = {"default": DEFAULT, "paper": PAPER}


def resolved(config: GaussiansConfig) -> GaussiansConfig:
    """The config with everything filled in that was left to the recipe.

    In float32, whatever was asked: what takes the time are sums of waves, which need their digits.
    """
    found: GaussiansConfig = resolved_by(config, dict(RECIPES[config.recipe]))
    return replace(found, training=replace(found.training, precision="float32"))
