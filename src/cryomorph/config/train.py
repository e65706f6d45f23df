"""The methods that `cryomorph train` knows, and where what each may be asked is written."""

from __future__ import annotations

METHODS = {
    "linear": "cryomorph.config.linear:LinearConfig",
    "conv-volume": "cryomorph.config.conv_volume:ConvVolumeConfig",
    "gaussians": "cryomorph.config.gaussians:GaussiansConfig",
    "neural-field": "cryomorph.config.neural_field:NeuralFieldConfig",
}
