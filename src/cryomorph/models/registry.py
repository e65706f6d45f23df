"""Representations and encoders in files: how each is described there, and restored from the description."""

from __future__ import annotations

from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.config.methods import load, methods, reference_to
from cryomorph.encoders.base import Encoder, EncoderNetwork
from cryomorph.representations.base import Representation

Tensors = dict[str, Tensor]


def facts_of(representation: Representation) -> dict[str, str]:
    """What a file must hold besides the tensors, so that `representation_from` restores the same.

    Raises:
        TypeError: no method is registered with representations of this class.
    """
    reference = reference_to(type(representation))
    for name, entry in methods().items():
        if entry.representation == reference:
            return {"method": name, **representation.facts()}
    raise TypeError(f"no method is registered with the representation {reference}")


def representation_from(tensors: Tensors, facts: dict[str, str]) -> Representation:
    """The representation in a model file, which may hold further tensors; `InputError` if its method is unknown."""
    method = facts.get("method", "")
    if method not in methods():
        raise InputError(
            f"method '{method}' is not known here: expected one of {', '.join(methods())}; is the package that "
            "registers it installed?"
        )
    kind: type[Representation] = load(methods()[method].representation)
    return kind.restored(tensors, facts)


def encoder_kinds() -> dict[str, str]:
    """The encoder networks of all methods by the name that a file has for them."""
    return {name: reference for entry in methods().values() for name, reference in entry.encoders.items()}


def network_kind(encoder: Encoder | None) -> str | None:
    """The name of an encoder network; None for a table, or without an encoder."""
    reference = None if encoder is None else reference_to(type(encoder))
    return next((name for name, known in encoder_kinds().items() if known == reference), None)


def encoder_from(kind: str, tensors: Tensors) -> EncoderNetwork:
    """The encoder network of a kind whose state was saved among a model's tensors, as `encoder.NAME`."""
    network: type[EncoderNetwork] = load(encoder_kinds()[kind])
    return network.of(
        {name.removeprefix("encoder."): value for name, value in tensors.items() if name.startswith("encoder.")}
    )
