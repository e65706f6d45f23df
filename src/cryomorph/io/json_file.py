"""JSON files: written whole or not at all, read into dataclasses with every value checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path
from cryomorph.io.npy import damaged

R = TypeVar("R")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    with atomic_path(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")


def read_json(path: Path, *, again: str) -> dict[str, Any]:
    """The object of a JSON file.

    Args:
        again: how the file is made again, to end the message with.

    Raises:
        InputError: the file is missing, damaged, or holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_not_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error, again) from error
    if not isinstance(content, dict):
        raise damaged(path, ValueError(f"a JSON {type(content).__name__}, expected an object"), again)
    return content


def read_record(cls: type[R], path: Path, *, again: str) -> R:
    """A dataclass from a JSON file; keys that it has no field for are left out.

    Raises:
        InputError: as `read_json`; or a key is missing, or has a value of another type.
    """
    return record(cls, read_json(path, again=again), path, again=again)


def record(cls: type[R], content: Mapping[str, Any], path: Path, *, again: str) -> R:
    """A dataclass from the content of a file; see `read_record`."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(cls).validate_python(dict(content))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the whole"
        raise InputError(f"{path} cannot be read ({key}: {first['msg'].lower()}): {again}") from error


def _not_finite(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")
