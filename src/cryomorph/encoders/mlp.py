"""The amortised encoder of cryoDRGN: an MLP from an image to its posterior (docs/methods.md, "Neural field")."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from cryomorph.encoders.base import EncoderNetwork, Posterior
from cryomorph.particles.store import Batch


@final
class MlpEncoder(EncoderNetwork):
    """An MLP on the centred, phase-flipped coefficients of an image; it does not see the pose.

    Args:
        count: coefficients that it sees: a prefix of the disk, which is a low-pass filter.
        residual: whether hidden layers have skip connections.
    """

    def __init__(self, count: int, zdim: int, *, width: int = 256, layers: int = 3, residual: bool = True) -> None:
        super().__init__()
        self.count, self.zdim = count, zdim
        self.residual: Tensor
        self.register_buffer("residual", torch.tensor(residual))
        self.input = nn.Linear(2 * count, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.output = nn.Linear(width, 2 * zdim)

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> MlpEncoder:
        """The encoder whose state was saved."""
        width, inputs = tensors["input.weight"].shape
        layers = sum(name.startswith("hidden.") and name.endswith(".weight") for name in tensors)
        encoder = cls(inputs // 2, len(tensors["output.bias"]) // 2, width=width, layers=layers)
        encoder.load_state_dict(tensors)
        return encoder

    def forward(self, batch: Batch) -> Posterior:
        """The posterior of each particle of a batch that holds at least the encoder's band."""
        flipped = batch.image[:, : self.count] * torch.sign(batch.ctf[:, : self.count])
        hidden = torch.relu(self.input(torch.view_as_real(flipped).flatten(1)))
        for layer in self.hidden:
            hidden = torch.relu(layer(hidden) + hidden * self.residual)
        mean, log_variance = self.output(hidden).float().chunk(2, dim=1)
        return Posterior(mean, log_variance)
