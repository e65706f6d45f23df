"""`cryomorph train METHOD`: fit a landscape of structures to the particles."""

from __future__ import annotations

from cryomorph.config.conv_volume import ConvVolumeConfig
from cryomorph.config.gaussians import GaussiansConfig
from cryomorph.config.linear import LinearConfig
from cryomorph.config.neural_field import NeuralFieldConfig


def train(config: LinearConfig | NeuralFieldConfig | GaussiansConfig | ConvVolumeConfig) -> None:
    """Fit the method whose options were given, and warn of checks that its model fails."""
    from cryomorph.diagnostics.model import warn_about_model

    if isinstance(config, NeuralFieldConfig):
        from cryomorph.methods.neural_field import train_neural_field

        run = train_neural_field(config)
    elif isinstance(config, GaussiansConfig):
        from cryomorph.methods.gaussians import train_gaussians

        run = train_gaussians(config)
    elif isinstance(config, ConvVolumeConfig):
        from cryomorph.methods.conv_volume import train_conv_volume

        run = train_conv_volume(config)
    else:
        from cryomorph.methods.linear import train_linear

        run = train_linear(config)
    warn_about_model(run)
