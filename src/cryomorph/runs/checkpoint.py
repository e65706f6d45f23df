"""Tensors on disk as safetensors: written whole or not at all, read without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path
from cryomorph.io.npy import damaged

T = TypeVar("T")


def save_tensors(path: Path, tensors: dict[str, Tensor], **facts: str) -> None:
    """Write named tensors and a few facts in words."""
    with atomic_path(path) as part:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, metadata=facts)


class Held(dict[str, T]):
    """What a file holds by name; what it lacks is said with the file's name."""

    def __init__(self, path: Path, content: dict[str, T]) -> None:
        super().__init__(content)
        self.path = path

    def __missing__(self, name: str) -> T:
        raise InputError(f"{self.path} has no {name}: {again(self.path)}")


def load_tensors(path: Path) -> tuple[Held[Tensor], Held[str]]:
    """Read what `save_tensors` wrote: the tensors and the facts.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = dict(file.metadata() or {})
    except Exception as error:  # its own kinds, Python's and torch's, whatever the header has become
        raise damaged(path, error, again(path)) from error
    return Held(path, tensors), Held(path, facts)


def require_finite(tensors: Held[Tensor]) -> Held[Tensor]:
    """The same tensors; `InputError` where a value of one is not finite."""
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{tensors.path}: {name} has values that are not finite: {again(tensors.path)}")
    return tensors


def load_state(module: nn.Module, path: Path) -> Held[str]:
    """Take up a module's parameters and buffers from a file, on the device that it is on; returns the file's facts.

    Raises:
        InputError: the file is missing or damaged, or is of another module.
    """
    tensors, facts = load_tensors(path)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise damaged(path, ValueError(str(error).replace("\n\t", " ")), again(path)) from error
    return facts


def again(path: Path) -> str:
    """How a file of tensors is made again."""
    if path.parent.name == "checkpoints":
        return "remove it and go on with --resume, or train again with --overwrite"
    return "train again with --overwrite"


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
