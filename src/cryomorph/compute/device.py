"""What this machine has to evaluate models with: its device, and the number format that it multiplies fastest."""

from __future__ import annotations

from time import perf_counter

import torch

from cryomorph.config.errors import InputError

FASTER = 1.5  # what bfloat16 must win on products to be worth its conversions
TRIALS = 8


def choose_device(asked: str) -> torch.device:
    """The device that was asked for; `auto` is a GPU where there is one.

    Raises:
        InputError: there is no such device.
    """
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise InputError(f"--device {asked}: no such device; expected cpu, cuda or cuda:0, say") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {asked}: expected cpu, cuda or cuda:0, say")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {asked}: this machine has {torch.cuda.device_count()} GPUs that torch can use")
    return device


def bfloat16_pays(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32 by far."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return product_seconds(torch.float32) > FASTER * product_seconds(torch.bfloat16)


def product_seconds(kind: torch.dtype) -> float:
    """The time of a product as a field's layer takes it, on the CPU, the best of a few.

    Measured, since the names of a machine's units do not tell: processors with vector units for bfloat16 gain nothing
    or a factor of five (benchmarks/neural_field.py).
    """
    rows, matrix = torch.ones(2048, 256, dtype=kind), torch.ones(256, 256, dtype=kind)
    times = []
    for _ in range(TRIALS):
        begin = perf_counter()
        torch.nn.functional.linear(rows, matrix)
        times.append(perf_counter() - begin)
    return min(times)
