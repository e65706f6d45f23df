"""Tensors on disk as safetensors: written whole or not at all, read without running anything."""

from __future__ import annotations

from pathlib import Path

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
