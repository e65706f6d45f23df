"""How a model is trained on this machine: number format, threads, compiler."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from cryomorph.compute.batch_threads import BatchThreads
from cryomorph.compute.precision import bfloat16_pays
from cryomorph.config.choices import Open
from cryomorph.config.console import warn
from cryomorph.config.training import TrainingConfig
from cryomorph.representations.base import Representation
from cryomorph.representations.neural_field import NeuralField

UNDIVIDED = (nn.Dropout, nn.BatchNorm1d)  # layers that draw at random, or average over the batch


def choose_precision(plan: TrainingConfig[Open], device: torch.device) -> TrainingConfig[Open]:
    """The plan with its number format chosen: bfloat16 if the machine multiplies it much faster."""
    if plan.precision != "auto":
        return plan
    return replace(plan, precision="bfloat16" if bfloat16_pays(device) else "float32")


def threads_for(device: torch.device, images: int, model: nn.Module | None = None) -> BatchThreads:
    """Threads that share batches of so many images: one on a GPU, and for models whose batches cannot be divided."""
    whole = model is not None and any(isinstance(part, UNDIVIDED) for part in model.modules())
    return BatchThreads(images if device.type == "cpu" and not whole else 1)


def compile_network(representation: Representation, option: str, device: torch.device) -> bool:
    """Compile the network of a neural field in place if `option` is yes, or auto on a GPU; warns if that fails."""
    if not isinstance(representation, NeuralField) or option == "no" or (option == "auto" and device.type != "cuda"):
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
        warn(f"the network could not be compiled ({reason}): training continues without, more slowly")
        return False
    return True


def release(representation: Representation) -> None:
    """Undo `compile_network`: code compiled for one device does not run on another."""
    if isinstance(representation, NeuralField):
        representation.network._compiled_call_impl = None
