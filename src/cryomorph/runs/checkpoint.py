"""Tensors on disk as safetensors: written whole or not at all, read without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path


def save_tensors(path: Path, tensors: dict[str, Tensor], **facts: str) -> None:
    """Write named tensors and a few facts in words."""
    with atomic_path(path) as part:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, metadata=facts)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `save_tensors` wrote: the tensors and the facts. Raises `InputError` where the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read as safetensors ({error}): train again") from error


def load_foreign(path: Path) -> dict[str, Any]:
    """A file of `torch.save` from another program: tensors and plain values only, nothing in it is run.

    Raises:
        InputError: the file holds anything else, or is damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage, or what is more than tensors, leads to
        raise InputError(f"{path} cannot be read as tensors ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, expected tensors by name")
    return content
