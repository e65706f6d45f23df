"""The representations by their method's name: how one is written down, and made again from what was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.representations.base import Representation
from cryomorph.representations.field_network import FieldShape
from cryomorph.representations.linear import LinearSubspace
from cryomorph.representations.neural_field import NeuralField

Tensors = dict[str, Tensor]


def facts_of(representation: Representation) -> dict[str, str]:
    """What a file must say beside the tensors, so that `representation_from` makes the same again."""
    if isinstance(representation, NeuralField):
        return {"method": "neural-field", "shape": json.dumps(asdict(representation.shape))}
    return {"method": "linear"}


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


METHODS: dict[str, Callable[[Tensors, dict[str, str]], Representation]] = {
    "linear": _linear,
    "neural-field": _neural_field,
}
