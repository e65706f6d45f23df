"""Models as their configs describe them, and where the particles lie before a model has seen them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.config.gaussians import MixtureConfig
from cryomorph.config.neural_field import NetworkConfig, NeuralFieldConfig
from cryomorph.encoders.base import Encoder
from cryomorph.encoders.mlp import MlpEncoder
from cryomorph.encoders.poses import PoseTable
from cryomorph.encoders.table import TableEncoder
from cryomorph.latents.empirical_bayes import empirical_bayes_posterior, likelihood
from cryomorph.latents.isomap import curve_coordinate
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.particles.store import ParticleStore
from cryomorph.representations.encodings import frequency_matrix
from cryomorph.representations.field_network import FieldShape
from cryomorph.representations.linear import LinearSubspace
from cryomorph.representations.neural_field import NeuralField
from cryomorph.training.distillation import Lesson
from cryomorph.training.stages.linear import Consensus
from cryomorph.volumes.grid import shell_amplitude

FIRST_SPREAD = 0.1  # of a latent coordinate that the linear model does not have, in units of its prior


@dataclass(frozen=True)
class LinearStart:
    """What the linear stage leaves to the others: the subspace, and where the particles lie in it."""

    subspace: LinearSubspace
    mean: Float32[Tensor, "n q"]
    std: Float32[Tensor, "n q"]

    @property
    def prior_std(self) -> Float32[Tensor, " q"]:
        """Standard deviation of each coordinate over the particles, their uncertainty included."""
        return (self.mean.var(0) + self.std.square().mean(0)).sqrt()

    def on_landscape(self, seed: int) -> LinearStart:
        """The same particles where the density of all of them puts each one."""
        if not self.mean.shape[1]:
            return self
        mean, std = empirical_bayes_posterior(self.mean, self.std, self.prior_std, seed=seed)
        return replace(self, mean=mean, std=std)


def build_model(
    config: NeuralFieldConfig, store: ParticleStore, found: Consensus, *, lesson: Lesson | None
) -> Heterogeneous:
    """The model as the config describes it, the same in every process.

    Args:
        found: the consensus, for the noise and the amplitude of the maps.
        lesson: where the particles lie to begin with; None for a start from nothing, with a standard normal prior.
    """
    network = config.network
    start = lesson or Lesson.nothing(len(store), config.zdim)
    torch.manual_seed(config.seed)
    frequencies = frequency_matrix(
        network.encoding or "gaussian",
        store.box,
        sigma=network.feature_sigma or 0.5,
        count=round((network.feature_share or 1.5) * store.box),
        seed=config.seed,
    )
    shape = FieldShape(
        store.box, config.zdim, network.width or 256, network.layers or 3, residual=network.network == "residual"
    )
    # from nothing the output is in units of the noise, as in the papers
    amplitude = None if lesson is None else shell_amplitude(found.map)
    field = NeuralField(shape, frequencies, amplitude, start.prior_std)
    encoder: Encoder | None = None
    if config.zdim and network.encoder == "table":
        encoder = TableEncoder(start.point, start.spread)
    elif config.zdim:
        encoder = mlp_encoder(store, config.zdim, network, residual=network.network == "residual")
    poses = PoseTable(len(store)) if config.refines_against_model else None
    whitening = noise_whitening(store, found, config.training.noise or "radial")
    return Heterogeneous(
        field,
        encoder,
        prior_std=start.prior_std,
        whitening=whitening,
        poses=poses,
        pose_spread_deg=config.training.pose_spread,
    )


def mlp_encoder(
    store: ParticleStore, zdim: int, network: NetworkConfig | MixtureConfig, *, residual: bool = True
) -> MlpEncoder:
    """The encoder that sees images, of the size that a method's config gives."""
    return MlpEncoder(
        store.disk.count(network.encoder_band or store.box / 2),
        zdim,
        width=network.encoder_width or 256,
        layers=network.encoder_layers or 3,
        residual=residual,
    )


def noise_whitening(store: ParticleStore, found: Consensus, noise: str) -> Float32[Tensor, " size"]:
    """What multiplies a stored coefficient to give it unit noise: under the radial model, or under the white one.

    The store's noise comes from outside the particle; where the consensus leaves less, that is nearer to the truth.
    """
    shell = store.disk.shell
    if noise == "white":
        amplitude = store.noise_amplitude[shell]
        return amplitude / amplitude.square().mean().sqrt()
    return found.noise_power.rsqrt()[shell]


def first_lesson(start: LinearStart, zdim: int, *, seed: int) -> Lesson:
    """Where the particles lie in the field's latent space before it has seen them.

    The linear model's own coordinates where it has as many; the length along its curve for a single one.
    """
    landscape = start.on_landscape(seed)
    if start.mean.shape[1] == zdim:
        return Lesson(landscape.mean, landscape.std, landscape.mean, shared=True)
    if start.mean.shape[1] < zdim:
        missing = zdim - start.mean.shape[1]
        mean = torch.nn.functional.pad(landscape.mean, (0, missing))
        std = torch.nn.functional.pad(landscape.std, (0, missing), value=FIRST_SPREAD)
        return Lesson(mean, std, landscape.mean, shared=False)
    if zdim == 1:
        along, spread = curve_coordinate(*likelihood(start.mean, start.std, start.prior_std), seed=seed)
        return Lesson(along[:, None], spread[:, None], landscape.mean, shared=False)
    return Lesson(landscape.mean[:, :zdim], landscape.std[:, :zdim], landscape.mean, shared=False)
