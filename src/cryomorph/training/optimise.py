"""Optimisers: Adam for all weights, or Muon for the weight matrices and Adam for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from cryomorph.compute.batch_threads import BatchThreads
from cryomorph.compute.distributed import Parallel

Optimiser = Literal["muon", "adam"]
MUON_RATE = 5.0  # Muon's learning rate over Adam's


class Optimisers:
    """The optimisers of a model's weights, stepped together.

    Muon (Jordan et al. 2024) steps along the orthogonal matrix nearest to the momentum. On slices of a neural field it
    needs a tenth of Adam's steps (benchmarks/neural_field.py).
    """

    def __init__(self, model: nn.Module, kind: Optimiser, *, parallel: Parallel | None = None) -> None:
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.parallel = parallel
        matrices = [p for p in self.weights if kind == "muon" and p.ndim == 2 and min(p.shape) > 2]
        others = [p for p in self.weights if all(p is not matrix for matrix in matrices)]
        # one per matrix, so that threads and processes can divide them; sorted by size, so that the shares are even
        largest_first = sorted(matrices, key=torch.Tensor.numel, reverse=True)
        self._muon = [torch.optim.Muon([matrix], lr=0.0, weight_decay=0.0) for matrix in largest_first]
        self._adam = [torch.optim.Adam(others, lr=0.0, fused=True)] if others else []

    @property
    def _each(self) -> list[torch.optim.Optimizer]:
        return [*self._muon, *self._adam]

    def step(self, rate: float, keep: Tensor | None = None, *, threads: BatchThreads | None = None) -> None:
        """One step at a learning rate; it is skipped if `keep` is 0, on the device, without waiting for it.

        Every process steps the matrices that it owns and receives the others from their owners: orthogonalisation takes
        as long for few images as for many.

        Args:
            threads: threads that share the matrices.
        """
        if keep is not None and keep.device.type == "cpu":
            if not keep:  # no device to wait for: skip the whole step
                return
        elif keep is not None:
            for weight in self.weights:
                if weight.grad is not None:
                    # nan times 0 is nan
                    weight.grad = torch.where(keep > 0, torch.nan_to_num(weight.grad), 0)
        for each in self._each:
            factor = MUON_RATE if isinstance(each, torch.optim.Muon) else 1.0
            for group in each.param_groups:
                group["lr"] = rate * factor
        own = self._muon if self.parallel is None else self.parallel.owned(self._muon)
        if threads is None:
            for each in [*own, *self._adam]:
                each.step()
        else:
            threads.map(lambda each: each.step(), [*own, *self._adam])
        if self.parallel is not None:
            self.parallel.broadcast([_matrix(muon).data for muon in self._muon])

    def gather(self) -> None:
        """Exchange the momenta between the processes: `state` is complete after this."""
        if self.parallel is not None:
            for muon in self._muon:
                muon.state[_matrix(muon)].setdefault("momentum_buffer", torch.zeros_like(_matrix(muon)))
            self.parallel.broadcast([muon.state[_matrix(muon)]["momentum_buffer"] for muon in self._muon])

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for weight in self.weights:
            weight.grad = None

    def norm(self) -> Tensor:
        """Norm of all gradients together."""
        return torch.nn.utils.get_total_norm([p.grad for p in self.weights if p.grad is not None])

    def state(self) -> dict[str, Tensor]:
        """State of the optimisers, by the number of the weight."""
        return {f"{number}.{name}": value for number, memory in self._memories() for name, value in memory.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` gave; the state of weights that it does not name is dropped."""
        for number, weight in enumerate(self.weights):
            mine = {
                name.split(".", 1)[1]: value.clone()
                for name, value in state.items()
                if name.split(".")[0] == str(number)
            }
            for each in self._each:
                if any(weight is p for group in each.param_groups for p in group["params"]):
                    if mine:
                        each.state[weight] = mine
                    else:
                        each.state.pop(weight, None)

    def _memories(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        for number, weight in enumerate(self.weights):
            for each in self._each:
                if weight in each.state:
                    yield number, each.state[weight]


def _matrix(muon: torch.optim.Muon) -> Tensor:
    matrix: Tensor = muon.param_groups[0]["params"][0]
    return matrix
