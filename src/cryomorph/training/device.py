"""How a model is trained on this machine: the number format of its products, and its compiler."""

from __future__ import annotations

from dataclasses import replace

import torch

from cryomorph.compute.precision import bfloat16_pays
from cryomorph.config.console import warn
from cryomorph.config.training import TrainingConfig
from cryomorph.representations.base import Representation
from cryomorph.representations.neural_field import NeuralField


def choose_precision(plan: TrainingConfig, device: torch.device) -> TrainingConfig:
    """The plan with its number format decided: bfloat16 where the machine multiplies it faster by far."""
    if plan.precision != "auto":
        return plan
    return replace(plan, precision="bfloat16" if bfloat16_pays(device) else "float32")


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
