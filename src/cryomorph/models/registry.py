"""Representations and encoders by name: how one is written down, and made again from what was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.encoders.base import Encoder
from cryomorph.encoders.conv import ConvEncoder
from cryomorph.encoders.gradient import GradientEncoder
from cryomorph.encoders.mlp import MlpEncoder
from cryomorph.representations.base import Representation
from cryomorph.representations.conv_network import ConvShape
from cryomorph.representations.conv_volume import ConvVolume
from cryomorph.representations.field_network import FieldShape
from cryomorph.representations.gaussian_motion import GaussianShape
from cryomorph.representations.gaussians import Gaussians
from cryomorph.representations.linear import LinearSubspace
from cryomorph.representations.neural_field import NeuralField

Tensors = dict[str, Tensor]


def facts_of(representation: Representation) -> dict[str, str]:
    """What a file must say beside the tensors, so that `representation_from` makes the same again."""
    if isinstance(representation, LinearSubspace):
        return {"method": "linear"}
    if not isinstance(representation, NeuralField | Gaussians | ConvVolume):
        raise TypeError(f"{type(representation).__name__} has no name that a file could hold")
    method = {NeuralField: "neural-field", Gaussians: "gaussians", ConvVolume: "conv-volume"}[type(representation)]
    return {"method": method, "shape": json.dumps(asdict(representation.shape))}


def representation_from(tensors: Tensors, facts: dict[str, str]) -> Representation:
    """The representation that a model file holds; `InputError` where its method is unknown."""
    method = facts.get("method", "")
    if method not in METHODS:
        raise InputError(f"method {method!r} is not one that this version knows ({', '.join(METHODS)})")
    return METHODS[method](tensors, facts)


def _linear(tensors: Tensors, facts: dict[str, str]) -> Representation:
    return LinearSubspace(tensors["maps"])


def _neural_field(tensors: Tensors, facts: dict[str, str]) -> Representation:
    shape = FieldShape(**json.loads(facts["shape"]))
    field = NeuralField(shape, torch.zeros_like(tensors["frequencies"]))
    field.load_state_dict({name: tensors[name] for name in field.state_dict()})
    return field.eval()


def _gaussians(tensors: Tensors, facts: dict[str, str]) -> Representation:
    asked = json.loads(facts["shape"])
    model = Gaussians(GaussianShape(**asked | {"changes": tuple(asked["changes"])}))
    model.load_state_dict({name: tensors[name] for name in model.state_dict()})
    return model.eval()


def _conv_volume(tensors: Tensors, facts: dict[str, str]) -> Representation:
    model = ConvVolume(ConvShape(**json.loads(facts["shape"])))
    model.load_state_dict({name: tensors[name] for name in model.state_dict()})
    return model.eval()


METHODS: dict[str, Callable[[Tensors, dict[str, str]], Representation]] = {
    "linear": _linear,
    "neural-field": _neural_field,
    "gaussians": _gaussians,
    "conv-volume": _conv_volume,
}


def network_kind(encoder: Encoder | None) -> str | None:
    """The name of an encoder network; None where there is none, or only a table."""
    return next((kind for kind, made in NETWORKS.items() if isinstance(encoder, made)), None)


def encoder_from(kind: str, tensors: Tensors) -> Encoder:
    """The encoder network of a kind whose state was saved among a model's tensors, as `encoder.NAME`."""
    return NETWORKS[kind].of(
        {name.removeprefix("encoder."): value for name, value in tensors.items() if name.startswith("encoder.")}
    )


NETWORKS: dict[str, type[MlpEncoder] | type[GradientEncoder] | type[ConvEncoder]] = {
    "mlp": MlpEncoder,
    "gradient": GradientEncoder,
    "conv": ConvEncoder,
}
