"""The encoder of OPUS-DSD: strided 3D convolutions on the back-projected image."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement, pairwise
from typing import final

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.nn import functional

from cryomorph.encoders.base import EncoderNetwork, Posterior
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import fourier_disk

SLOPE = 0.2  # of LeakyReLU below zero
KERNEL, STRIDE = 4, 2
EVEN_DEGREE = 6
VOXELS = 1 << 22  # of cubes at once, where no gradient is kept
SMALLEST_SIDE, LARGEST_SIDE = 16, 128


@final
class Variation(nn.Module):
    """Random changes of each image's contrast and brightness during training, on which no structure should depend.

    Args:
        amount: contrast is multiplied by 1 +- amount at most, brightness shifted by as many standard deviations.
    """

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, image: Float32[Tensor, "b y x"]) -> Float32[Tensor, "b y x"]:
        """The varied images; in evaluation mode the images themselves."""
        if not self.training or not self.amount:
            return image
        contrast, brightness = self.amount * (2 * torch.rand(2, len(image), 1, 1, device=image.device) - 1)
        return image * (1 + contrast) + brightness * image.std(dim=(1, 2), keepdim=True)


@final
class ViewMean(nn.Module):
    """Mean code of the particles with a given viewing direction, relative to that of all; zero until it is fitted.

    An image repeated along its direction has streaks, from which a convolution reads the direction even if all
    particles are alike. Streaks along v and -v are the same, so the codes depend on even functions of v: a
    polynomial of degree 6, the spherical harmonics of orders 0, 2, 4 and 6.
    """

    def __init__(self, zdim: int) -> None:
        super().__init__()
        terms = torch.tensor(list(combinations_with_replacement(range(3), EVEN_DEGREE)))
        self.power: Tensor
        self.coefficient: Tensor
        self.register_buffer("power", terms, persistent=False)
        self.register_buffer("coefficient", torch.zeros(len(terms), zdim))

    def forward(self, view: Float32[Tensor, "b 3"]) -> Float32[Tensor, "b zdim"]:
        """Mean deviation of the codes of these viewing directions from the mean of all."""
        with torch.autocast(view.device.type, enabled=False):
            return view[:, self.power].prod(dim=2) @ self.coefficient

    @torch.no_grad()
    def fit(self, view: Float32[Tensor, "n 3"], code: Float32[Tensor, "n zdim"]) -> None:
        """Fit by least squares over particles."""
        away = (code - code.mean(0)).double()
        found = torch.linalg.lstsq(view[:, self.power].prod(dim=2).double().cpu(), away.cpu(), driver="gelsd")
        self.coefficient.copy_(found.solution)


@final
class ConvEncoder(EncoderNetwork):
    """Each image is repeated along z and rotated by its inverse pose; convolutions halve the cube down to one voxel.

    After training, `forget_view` removes from the codes what depends on the viewing direction.

    Args:
        side: of the cube that an image becomes, a power of two; images are low-passed to its band.
        channels: of the first convolution; each later one has twice as many.
        variation: of contrast and brightness in training, see `Variation`.
    """

    def __init__(self, zdim: int, *, side: int = 32, channels: int = 16, variation: float = 0.0) -> None:
        super().__init__()
        if side & (side - 1) or not SMALLEST_SIDE <= side <= LARGEST_SIDE:
            raise ValueError(f"side {side}: expected a power of two from {SMALLEST_SIDE} to {LARGEST_SIDE}")
        self.zdim, self.side = zdim, side
        self.variation = Variation(variation)
        halvings = round(math.log2(side))
        widths = [1] + [channels * 2**power for power in range(halvings)]
        self.convolutions = nn.ModuleList(
            nn.Conv3d(inputs, outputs, KERNEL, STRIDE, 1) for inputs, outputs in pairwise(widths)
        )
        self.hidden = nn.Linear(widths[-1], widths[-1])
        self.output = nn.Linear(widths[-1], 2 * zdim)
        self.view_mean = ViewMean(zdim)
        nn.init.zeros_(self.output.bias)

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> ConvEncoder:
        """The encoder whose state was saved."""
        halvings = sum(name.startswith("convolutions.") and name.endswith(".weight") for name in tensors)
        encoder = cls(
            len(tensors["output.bias"]) // 2, side=2**halvings, channels=len(tensors["convolutions.0.weight"])
        )
        encoder.load_state_dict(tensors)
        return encoder

    def forward(self, batch: Batch) -> Posterior:
        """The posterior of each particle of a batch that holds the whole disk of its box, or the cube's band of it."""
        most = max(1, VOXELS // self.side**3)
        if not torch.is_grad_enabled() and len(batch) > most:
            parts = [self(part) for part in batch.split(most)]
            return Posterior(torch.cat([p.mean for p in parts]), torch.cat([p.log_variance for p in parts]))
        found = self.backprojected(batch)[:, None]
        for layer in self.convolutions:
            found = functional.leaky_relu(layer(found), SLOPE)
        hidden = functional.leaky_relu(self.hidden(found.flatten(1)), SLOPE)
        mean, log_variance = self.output(hidden).float().chunk(2, dim=1)
        return Posterior(mean - self.view_mean(batch.rotation[:, 2]), log_variance)

    def forget_view(
        self, rotation: Float32[Tensor, "n 3 3"], code: Float32[Tensor, "n zdim"]
    ) -> Float32[Tensor, "n zdim"]:
        """Fit the dependence of all particles' final codes on the viewing direction; returns the codes without it."""
        view = rotation[:, 2].to(code)
        self.view_mean.fit(view, code)
        return code - self.view_mean(view)

    def backprojected(self, batch: Batch) -> Float32[Tensor, "b side side side"]:
        """Phase-flipped images in the volume's frame: a voxel at `r` has the image's value at `R r`, bilinearly.

        In units in which the noise of a pixel has standard deviation 1, where the coefficients' has.
        """
        with torch.autocast(batch.ctf.device.type, enabled=False):  # coordinates need the precision
            return self._backprojected(batch)

    def _backprojected(self, batch: Batch) -> Float32[Tensor, "b side side side"]:
        disk = fourier_disk(self.side)
        count = min(disk.size, batch.image.shape[1])
        flipped = batch.image[:, :count] * torch.sign(batch.ctf[:, :count])
        image = self.variation(disk.to_images(flipped).float() * self.side)
        line = (torch.arange(self.side, device=image.device) - self.side // 2).to(image)
        z, y, x = torch.meshgrid(line, line, line, indexing="ij")
        at = torch.stack([x, y, z], dim=-1).view(-1, 3) @ batch.rotation[:, :2].mT
        # torch places the centres of the outer pixels at -1 and 1
        place = (at + self.side // 2) * (2 / (self.side - 1)) - 1
        found = functional.grid_sample(image[:, None], place[:, None], align_corners=True)
        return found.view(-1, self.side, self.side, self.side)
