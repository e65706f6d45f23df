"""Configs from keyword arguments: the same names and defaults as on the command line, without nesting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, get_origin, get_type_hints

from cryomorph.config.errors import InputError
from cryomorph.config.load import as_json, validated

C = TypeVar("C")


def from_keywords(cls: type[C], given: Mapping[str, Any], *, call: str, base: C | None = None) -> C:
    """A config whose fields, and those of its parts, are given by their own names.

    Args:
        call: the function that they were given to, for messages.
        base: a config to take all from that is not given.

    Raises:
        InputError: a name that no field has (the nearest ones are listed), or a value that a field cannot take.
    """
    places = _places(cls)
    content: dict[str, Any] = {} if base is None else as_json(base)
    for name, value in given.items():
        if name not in places:
            near = get_close_matches(name, places, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(places)}"
            raise InputError(f"{call} has no option {name}: {hint}")
        part = content
        for step in places[name]:
            part = part.setdefault(step, {})
        part[name] = value
    return validated(cls, content, call)


def _places(cls: Any, inside: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    """Every option of a config, and the parts of it that hold the option, outermost first."""
    types = get_type_hints(cls)
    found: dict[str, tuple[str, ...]] = {}
    for field in fields(cls):
        kind = get_origin(types[field.name]) or types[field.name]
        found |= _places(kind, (*inside, field.name)) if is_dataclass(kind) else {field.name: inside}
    return found
