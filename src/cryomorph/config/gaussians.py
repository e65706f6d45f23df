"""Options of `cryomorph train gaussians`, and the settings of its recipes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Never, TypeAlias

import tyro

from cryomorph.config.choices import UNSET, Open
from cryomorph.config.methods import MethodEntry
from cryomorph.config.training import MethodConfig, by_recipe

Change = Literal["positions", "amplitudes", "widths"]


@dataclass(frozen=True)
class MixtureConfig(Generic[Open]):
    """The Gaussians, what may change, and the networks. Options without a default are set by the recipe."""

    gaussians: int | None = None
    """Number of Gaussians (default: doubled until the mean FSC with the neutral map is 0.95, or hardly improves)."""
    resolution: float | None = None
    """Resolution in Angstrom that the Gaussians are to match (default: that of the consensus at FSC 0.143)."""
    neutral: Literal["state", "consensus"] | Open = UNSET
    """Map that the Gaussians are fitted to first: a state in the middle of the latent space that lacks no part of the
    molecule, or, as in the paper, the consensus of all particles, in which parts that move far are smeared out."""
    change: tuple[Change, ...] | Open = UNSET
    """Properties of the Gaussians that may change from particle to particle; the paper recipe opens one after the
    other."""
    parts: int | Open = UNSET
    """Number of rigid bodies that positions follow, blended where they meet; 0 moves each Gaussian by itself, as in the
    paper."""
    free: Path | None = None
    """Mask file of any box and pixel size: Gaussians outside it stay fixed. Or a text file of the Gaussians that may
    change, one 0-based number per line, as numbered in gaussians.cif of a run with the same particles, options and
    seed."""
    objective: Literal["likelihood", "frc"] | Open = UNSET
    """Objective: the Gaussian likelihood, or the Fourier ring correlation, which ignores the scale of the images."""
    rings: Literal["noise", "equal"] | Open = UNSET
    """Weights of the rings in the correlation: by their number of coefficients and their noise, or equal, as in the
    paper."""
    min_resolution: float | None = None
    """Leave rings of lower resolution than this, in Angstrom, out of the correlation (default: include all)."""
    width: int | Open = UNSET
    """Width of the network's hidden layers (the paper: 512)."""
    layers: int | Open = UNSET
    """Number of the network's hidden layers (the paper: 4)."""
    noisy: bool | Open = UNSET
    """Dropout and batch normalisation before the outputs, as in the paper."""
    spread_penalty: float | Open = UNSET
    """Weight of the variance of the Gaussians' log widths in the loss per coefficient."""
    decay: float | Open = UNSET
    """Weight of the squared weights of the motion network in the loss per coefficient (the paper: 1e-3)."""
    encoder: Literal["table", "gradient", "mlp"] | Open = UNSET
    """Source of the latent points: a table with a row for each particle; a network that sees the gradient of the
    image's correlation with the neutral Gaussians (the paper's); or a network that sees the image."""
    encoder_width: int | Open = UNSET
    """Width of the encoder network (default: that of the motion network)."""
    encoder_layers: int | Open = UNSET
    """Number of the encoder network's hidden layers (default: that of the motion network)."""
    encoder_radius: float | Open = UNSET
    """Band limit of the images that the mlp encoder sees, in Fourier pixels (default: none)."""
    encoder_spread: float | Open = UNSET
    """Fixed standard deviation of the gradient encoder's latent points, as in the paper; 0 lets the network predict
    it."""


@dataclass(frozen=True)
class GaussiansConfig(MethodConfig[Open]):
    """Train a Gaussian mixture (e2gmm): a network moves Gaussians and changes their amplitudes.

    The default recipe starts from the linear method: its maps seed the Gaussians and teach the network, the table
    starts from its latent points, then all is trained on the images. Positions follow rigid bodies. The paper recipe is
    the publication's own, for comparison: the ring correlation, an encoder that sees gradients, every Gaussian moving
    by itself. `cryomorph motions RUN` shows what moves.
    """

    zdim: int = 4
    """Dimension of the latent space; 0 fits one mixture to all particles."""
    network: Annotated[MixtureConfig[Open], tyro.conf.arg(name="")] = field(default_factory=MixtureConfig)
    """The Gaussians and the networks."""
    symmetry: str = "C1"
    """Point group of the molecule, in RELION's notation: every particle is used at all equivalent orientations, to
    find the motions of one unit: that in the mask given to --free, or one that is chosen."""
    neutral_steps: int = 200
    """Steps of fitting the neutral Gaussians to their map, at each band limit."""


ResolvedGaussians: TypeAlias = GaussiansConfig[Never]

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
    "radius_share": 0.3,
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
    "radius_share": 0.0,
    "patience": 0,
    "warm_steps": 0,
}
RECIPES = {"default": DEFAULT, "paper": PAPER}


def gaussians_by_recipe(config: GaussiansConfig[None]) -> GaussiansConfig[None]:
    """The config with its recipe's settings wherever the user left the choice open.

    In float32, whatever the user chose: most of the time goes into sums of waves, which need the precision.
    """
    chosen: GaussiansConfig[None] = by_recipe(config, RECIPES[config.recipe])
    return replace(chosen, training=replace(chosen.training, precision="float32"))


METHOD = MethodEntry(
    "gaussians",
    GaussiansConfig,
    method="cryomorph.methods.gaussians:GAUSSIANS",
    representation="cryomorph.representations.gaussians:Gaussians",
    encoders={
        "mlp": "cryomorph.encoders.mlp:MlpEncoder",
        "gradient": "cryomorph.encoders.gradient:GradientEncoder",
    },
)
