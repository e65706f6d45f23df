"""Open choices: config fields that a recipe, or the particles, decide where the user does not.

A config with such fields is generic. They have the type `int | Open`: None or a number in a config as it is given,
`Config[None]`, and a number in a resolved one, `Config[Never]`, so that a type checker knows what no longer needs a
default.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, get_args, get_type_hints

Open = TypeVar("Open", bound=None)
UNSET: Any = None
"""Default of an open choice."""


def as_given(kind: Any) -> Any:
    """A config class with its open choices spelled out as None, for libraries that read types."""
    return kind[None] if getattr(kind, "__parameters__", ()) else kind


def filled(config: Any, chosen: dict[str, Any]) -> Any:
    """A config, its nested parts included, whose empty fields take the values chosen for them, by name."""
    new: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            new[field.name] = filled(value, chosen)
        elif value is None and field.name in chosen:
            new[field.name] = chosen[field.name]
    return replace(config, **new)


def unresolved(config: Any, prefix: str = "") -> list[str]:
    """Names of the open choices that are still None, nested parts included."""
    names = []
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if is_dataclass(value):
            names += unresolved(value, f"{prefix}{name}.")
        elif value is None and Open in get_args(hint):
            names.append(f"{prefix}{name}")
    return names


def resolved(config: Any, chosen: dict[str, Any]) -> Any:
    """A config as `filled` makes it, with no choice left open.

    Raises:
        TypeError: a choice for which no value is given: a recipe that lacks it is a bug.
    """
    complete = filled(config, chosen)
    missing = unresolved(complete)
    if missing:
        raise TypeError(f"{type(config).__name__}: nothing chooses {', '.join(missing)}")
    return complete
