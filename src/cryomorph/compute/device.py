"""The device that models are evaluated on."""

from __future__ import annotations

import torch

from cryomorph.config.errors import InputError


def choose_device(requested: str) -> torch.device:
    """The requested device; `auto` is a GPU where there is one.

    Raises:
        InputError: there is no such device.
    """
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise InputError(f"--device {requested}: no such device; expected auto, cpu, cuda or cuda:0") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {requested}: expected auto, cpu, cuda or cuda:0")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {requested}: torch can use {torch.cuda.device_count()} GPUs on this machine")
    return device
