"""Configs as JSON, read back with every key checked."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from cryomorph.config.choices import as_given
from cryomorph.config.errors import InputError
from cryomorph.config.renamed import current_keys

C = TypeVar("C")


def as_json(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON values, paths as strings."""
    from pydantic import TypeAdapter

    return dict(TypeAdapter(as_given(type(config))).dump_python(config, mode="json"))


def load_config(cls: type[C], path: Path | str, *, fill: dict[str, Any] | None = None, leave: str = "") -> C:
    """Read a config dataclass from JSON; missing keys take the dataclass's defaults, old names are understood.

    Args:
        fill: values for fields that the file does not have.
        leave: a key of the file that is not a field.

    Raises:
        InputError: the file is missing or not a JSON object; a key is unknown (the nearest known one is suggested),
            missing or of the wrong type.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such config file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error}); correct the file or write it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a JSON {type(content).__name__}, expected an object of config keys")
    content = current_keys({**(fill or {}), **{key: value for key, value in content.items() if key != leave}})
    _refuse_unknown(cls, content, path)
    return validated(cls, content, str(path))


def validated(cls: type[C], content: dict[str, Any], where: str) -> C:
    """A config dataclass of plain values, nested parts as dictionaries.

    Args:
        where: where the values come from, for the message.

    Raises:
        InputError: a value is missing or of the wrong type, or the config refuses it.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(as_given(cls)).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the config"
        found = "" if first["type"] == "missing" else f", found {first['input']!r}"
        raise InputError(f"{where}: {key}: {first['msg'].lower()}{found}") from None


def _refuse_unknown(cls: Any, content: dict[str, Any], path: Path, prefix: str = "") -> None:
    """Raise on the first key that is not a field, in nested dataclasses too."""
    known = [field.name for field in fields(cls)]
    types = get_type_hints(cls)
    for key, value in content.items():
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"expected {', '.join(known)}"
            raise InputError(f"{path}: unknown key '{prefix}{key}': {hint}")
        part = get_origin(types[key]) or types[key]
        if is_dataclass(part) and isinstance(value, dict):
            _refuse_unknown(part, value, path, f"{prefix}{key}.")
