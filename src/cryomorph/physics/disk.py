"""The Fourier disk: an image as its Fourier coefficients in one half-plane, in order of ascending radius."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Bool, Complex, Float, Int64
from torch import Tensor

from cryomorph.config.errors import InputError

EVEN_SHELLS = 2  # in each band of those that are taken together


@dataclass(frozen=True)
class FourierDisk:
    """Coefficients with `0 < |k| < box/2` and `ky > 0 or (ky == 0 and kx > 0)`, sorted by radius.

    A band limit is a prefix: `x[..., :disk.count(radius)]` holds every coefficient with `|k| < radius`.
    Frequencies are integers (Fourier pixels of `box`); divide by `box` for cycles per pixel. A disk with a
    `max_radius` holds only the coefficients below it.

    Raises:
        InputError: the box is odd or smaller than 4.
    """

    box: int
    max_radius: float | None = None

    def __post_init__(self) -> None:
        if self.box % 2 or self.box < 4:
            raise InputError(f"box {self.box}: expected an even box of at least 4; crop or pad the images")

    @cached_property
    def frequency(self) -> Int64[Tensor, "size 2"]:
        """`(kx, ky)` of each coefficient, in Fourier pixels."""
        half = self.box // 2
        k = torch.arange(-half, half)
        ky, kx = torch.meshgrid(torch.arange(0, half), k, indexing="ij")
        squared = kx**2 + ky**2
        limit = half if self.max_radius is None else min(self.max_radius, half)
        keep = (squared > 0) & (squared < limit**2) & ((ky > 0) | (kx > 0))
        kx, ky, squared = kx[keep], ky[keep], squared[keep]
        # by radius, then ky, then kx: a total order, so that every machine writes the same store
        order = torch.argsort((squared * self.box + ky) * 2 * self.box + kx + half)
        return torch.stack([kx[order], ky[order]], dim=1)

    @cached_property
    def radius(self) -> Float[Tensor, " size"]:
        """`|k|` of each coefficient in Fourier pixels, ascending."""
        return self.frequency.double().norm(dim=1).float()

    @cached_property
    def shell(self) -> Int64[Tensor, " size"]:
        """The shell of each coefficient: `|k|` rounded to the nearest integer, from 1 to `box/2`."""
        return self.frequency.double().norm(dim=1).round().long()

    @cached_property
    def even(self) -> Bool[Tensor, " size"]:
        """Every other pair of shells: coefficients whose noise says nothing of that of the others.

        A coefficient of a slice is interpolated between neighbours, so that single shells would share some.
        """
        return (self.shell // EVEN_SHELLS) % 2 == 0

    @property
    def size(self) -> int:
        """Number of complex coefficients, about `pi/8 box^2`."""
        return len(self.frequency)

    def within(self, radius: float | int) -> FourierDisk:
        """The disk of the coefficients with `|k| < radius`: a prefix of this one."""
        return fourier_disk(self.box, float(radius) if self.max_radius is None else min(float(radius), self.max_radius))

    def count(self, radius: float | int) -> int:
        """Number of coefficients with `|k| < radius`: the length of the prefix for that radius."""
        squared = (self.frequency**2).sum(1)
        return int((squared < radius**2).sum())

    @cached_property
    def _flat(self) -> Int64[Tensor, " size"]:
        """Index of each coefficient in a flattened `rfft2` of the image transposed to `[x, y]`."""
        kx, ky = self.frequency.T
        return (kx % self.box) * (self.box // 2 + 1) + ky

    @cached_property
    def _origin_sign(self) -> Float[Tensor, " size"]:
        """`(-1)^(kx + ky)`, which moves the origin of the image to pixel `box // 2`."""
        return 1.0 - 2.0 * (self.frequency.sum(1) % 2).float()

    def from_images(self, images: Float[Tensor, "*n y x"]) -> Complex[Tensor, "*n size"]:
        """Centred, unnormalised Fourier coefficients of real images `[y, x]` with their origin at `box // 2`.

        Images of a larger even box are cropped in Fourier space; pixel values keep their scale.
        """
        given = images.shape[-1]
        if images.shape[-2] != given or given % 2 or given < self.box:
            raise InputError(f"images of {tuple(images.shape[-2:])} pixels: expected square, even, at least {self.box}")
        transform = torch.fft.rfft2(images.transpose(-1, -2)).flatten(-2)
        kx, ky = self.frequency.T
        flat = (kx % given) * (given // 2 + 1) + ky
        scale = (self.box / given) ** 2
        return transform[..., flat] * (self._origin_sign * scale)

    def to_images(self, coefficients: Complex[Tensor, "*n m"]) -> Float[Tensor, "*n y x"]:
        """Real images `[y, x]` (mean zero) of coefficients, or of a prefix of them: the inverse of `from_images`."""
        m = coefficients.shape[-1]
        half = self.box // 2 + 1
        grid = coefficients.new_zeros((*coefficients.shape[:-1], self.box * half))
        sign = self._origin_sign[:m].to(coefficients.device)
        grid[..., self._flat[:m]] = coefficients * sign
        # on the line ky = 0 the disk keeps kx > 0 only; irfft2 needs both
        line = (self.frequency[:m, 1] == 0).nonzero().squeeze(1)
        mirrored = (-self.frequency[line, 0] % self.box) * half
        grid[..., mirrored] = (coefficients[..., line] * sign[line]).conj()
        images = torch.fft.irfft2(grid.unflatten(-1, (self.box, half)), s=(self.box, self.box))
        return images.transpose(-1, -2)


@lru_cache(maxsize=32)
def fourier_disk(box: int, max_radius: float | None = None) -> FourierDisk:
    """The disk of a box, or its prefix below a radius, cached."""
    return FourierDisk(box, max_radius)
