"""The neural field from a particle file to a run."""

from __future__ import annotations

from cryomorph.config.errors import InputError
from cryomorph.config.neural_field import NeuralFieldConfig, resolved
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.runs.folder import RunFolder
from cryomorph.training.build import build_model
from cryomorph.training.run_method import check_numbers, train_method
from cryomorph.training.session import Method, Session, required
from cryomorph.training.stages.recipes import consensus, encode, joint, linear, poses, warm
from cryomorph.training.start import check_mask, check_paths


def train_neural_field(config: NeuralFieldConfig) -> RunFolder:
    """Train a neural field; returns the finished run.

    Started by `torchrun`, all processes train one model together.

    Raises:
        InputError: an option out of range, particles that cannot be used, or a run folder that is in use.
    """
    config = resolved(config)
    check_options(config)
    return train_method(config, NEURAL_FIELD)


def build(session: Session) -> Heterogeneous:
    """The neural field of a session."""
    config = session.config
    if not isinstance(config, NeuralFieldConfig):
        raise TypeError(f"a neural field needs its own config, got {type(config).__name__}")
    return build_model(config, session.store, required(session.consensus), lesson=session.lesson)


NEURAL_FIELD = Method(
    "neural-field",
    build,
    {"default": (poses, consensus, linear, warm, joint, encode), "paper": (consensus, joint, encode)},
)


def check_options(config: NeuralFieldConfig) -> None:
    """Refuse what cannot be trained before anything is written."""
    network = config.network
    check_numbers(
        config,
        least={
            "width": (network.width, 1),
            "layers": (network.layers, 1),
            "feature-share": (network.feature_share, 0.1),
            "feature-sigma": (network.feature_sigma, 1e-6),
            "encoder-width": (network.encoder_width, 1),
            "encoder-layers": (network.encoder_layers, 1),
            "encoder-band": (network.encoder_band, 2),
        },
    )
    if config.recipe == "paper" and network.encoder == "table":
        raise InputError("--encoder table starts from the linear method, which --recipe paper leaves out: give one")
    check_paths(config)
    check_mask(config.mask, config.output, overwrite=config.overwrite)
