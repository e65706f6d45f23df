"""The methods that `cryomorph train` knows, and where what each may be asked is written."""

from __future__ import annotations

METHODS = {
    "linear": "cryomorph.config.linear:LinearConfig",
    "neural-field": "cryomorph.config.neural_field:NeuralFieldConfig",
}
