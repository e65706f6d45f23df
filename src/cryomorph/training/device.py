"""What this machine has: its device, the number format that it multiplies fastest, a compiler."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import torch

from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.config.training import TrainingConfig
from cryomorph.representations.base import Representation
from cryomorph.representations.neural_field import NeuralField

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


def choose_precision(plan: TrainingConfig, device: torch.device) -> TrainingConfig:
    """The plan with its number format decided: bfloat16 where the machine multiplies it faster by far."""
    if plan.precision != "auto":
        return plan
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = product_seconds(torch.float32) > FASTER * product_seconds(torch.bfloat16)
    return replace(plan, precision="bfloat16" if fast else "float32")


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


def compile_network(representation: Representation, asked: str, device: torch.device) -> bool:
    """Compile a field's network in place, if that was asked for or pays; says so where it cannot be done."""
    if not isinstance(representation, NeuralField) or asked == "no" or (asked == "auto" and device.type != "cuda"):
        return False
    network = representation.network
    network.compile(dynamic=None)
    try:
        phase = torch.zeros(2, 16, representation.frequencies.shape[1], device=device)
        network(phase, phase[..., :1] + 1, phase.new_zeros(2, representation.zdim)).sum().backward()
        network.zero_grad(set_to_none=True)
    except Exception as error:  # whatever a compiler or its tools may raise
        release(representation)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        warn(f"the network is not compiled ({reason}): training goes on without, more slowly")
        return False
    return True


def release(representation: Representation) -> None:
    """Undo `compile_network`: what was compiled for one device is not for another."""
    if isinstance(representation, NeuralField):
        representation.network._compiled_call_impl = None
