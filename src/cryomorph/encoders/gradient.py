"""The encoder of e2gmm: an MLP on the gradient of an image by the neutral Gaussians."""

from __future__ import annotations

from itertools import pairwise
from typing import cast, final

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from cryomorph.encoders.base import EncoderNetwork, Posterior
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.gaussian_slices import TABLE_NUMBERS, Mixture, project_gaussians
from cryomorph.physics.rings import ring_correlation

DROPOUT = 0.3
KINDS = 3  # positions, widths, amplitudes


@final
class GradientEncoder(EncoderNetwork):
    """An MLP on the gradient of an image's ring correlation with the neutral model by the parameters of its Gaussians.

    The gradient is in the molecule's frame, so that views need not be distinguished. It is taken for each particle by
    itself: the code of an image does not depend on the rest of its batch.

    Args:
        neutral: the neutral Gaussians, one row, in pixels of the box.
        ring_weight: (rings,) weight of each ring; their number determines the box, `2 (rings - 1)`.
        width, layers: size of the network.
        spread: fixed standard deviation of the posterior, as in the paper; 0 lets the network predict it.
        noisy: dropout and batch normalisation before the output, as in the paper.
    """

    def __init__(
        self,
        neutral: Mixture,
        *,
        ring_weight: Float32[Tensor, " rings"],
        zdim: int,
        width: int = 512,
        layers: int = 4,
        spread: float = 0.0,
        noisy: bool = False,
    ) -> None:
        super().__init__()
        self.zdim = zdim
        self.position: Tensor
        self.gaussian_width: Tensor
        self.amplitude: Tensor
        self.ring_weight: Tensor
        self.usual: Tensor
        self.spread: Tensor
        for name, part in zip(("position", "gaussian_width", "amplitude"), neutral, strict=True):
            self.register_buffer(name, part[0].detach().clone())
        self.register_buffer("ring_weight", ring_weight.clone())
        self.register_buffer("usual", torch.ones(KINDS))
        self.register_buffer("spread", torch.tensor(float(spread)))
        sizes = [5 * len(self.position), *[width] * layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.noise = nn.Sequential(nn.Dropout(DROPOUT), nn.BatchNorm1d(width)) if noisy else nn.Sequential()
        self.output = nn.Linear(width, 2 * zdim)
        nn.init.normal_(self.output.weight, std=1e-2 / width**0.5)
        nn.init.zeros_(self.output.bias)

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> GradientEncoder:
        """The encoder whose state was saved."""
        outputs, width = tensors["output.weight"].shape
        encoder = cls(
            Mixture(*(tensors[name][None] for name in ("position", "gaussian_width", "amplitude"))),
            ring_weight=tensors["ring_weight"],
            zdim=outputs // 2,
            width=width,
            layers=sum(name.startswith("hidden.") and name.endswith(".weight") for name in tensors),
            noisy=any(name.startswith("noise.") for name in tensors),
        )
        encoder.load_state_dict(tensors)
        return encoder

    def forward(self, batch: Batch) -> Posterior:
        """The posterior of each particle of a batch that holds the whole disk."""
        hidden = self.features(batch)
        for layer in self.hidden:
            hidden = torch.relu(layer(hidden))
        mean, log_variance = self.output(self._noisy(hidden)).float().chunk(2, dim=1)
        fixed = self.spread.clamp(min=1e-6).log().mul(2).expand_as(log_variance)
        return Posterior(mean, torch.where(self.spread > 0, fixed, log_variance))

    def _noisy(self, hidden: Float32[Tensor, "b width"]) -> Float32[Tensor, "b width"]:
        """Dropout and batch normalisation; a batch of one is normalised by the running statistics."""
        if not (self.training and len(hidden) == 1 and len(self.noise)):
            return cast(Tensor, self.noise(hidden))
        norm = self.noise[1].eval()
        found: Tensor = norm(self.noise[0](hidden))
        norm.train()
        return found

    def features(self, batch: Batch) -> Float32[Tensor, "b fiven"]:
        """Gradients by positions, widths and amplitudes, each kind divided by its typical size."""
        found = zip(self.gradients(batch), self.usual, strict=True)
        return torch.cat([each.flatten(1) / usual for each, usual in found], dim=1)

    def gradients(
        self, batch: Batch
    ) -> tuple[Float32[Tensor, "b n 3"], Float32[Tensor, "b n"], Float32[Tensor, "b n"]]:
        """Gradients of each image's weighted mean ring correlation, in the molecule's frame."""
        disk = fourier_disk(2 * (len(self.ring_weight) - 1))
        most = max(1, TABLE_NUMBERS // (disk.box * len(self.position)))
        if len(batch) > most:
            parts = [self.gradients(part) for part in batch.split(most)]
            by_position, by_width, by_amplitude = (torch.cat(each) for each in zip(*parts, strict=True))
            return by_position, by_width, by_amplitude
        with torch.enable_grad(), torch.autocast(batch.ctf.device.type, enabled=False):
            position, width, amplitude = (
                each.expand(len(batch), *each.shape).detach().clone().requires_grad_()
                for each in (self.position, self.gaussian_width, self.amplitude)
            )
            seen = Mixture(position, width, amplitude).turned(batch.rotation)
            model = batch.ctf * project_gaussians(seen, disk)
            weight = self.ring_weight
            rings = ring_correlation(batch.image, model, disk.shell.to(model.device), rings=len(weight))
            agreement = (rings @ weight / weight.sum()).sum()
            by_position, by_width, by_amplitude = torch.autograd.grad(agreement, [position, width, amplitude])
        return by_position, by_width, by_amplitude

    def calibrate(self, batch: Batch) -> None:
        """Estimate the typical sizes of gradients from a batch."""
        sizes = [each.square().mean().sqrt().clamp(min=1e-20) for each in self.gradients(batch)]
        self.usual.copy_(torch.stack(sizes))
