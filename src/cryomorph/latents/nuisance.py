"""What else moves an image than the conformation: its contrast, and the errors of its pose; and how large they are.

See docs/methods.md, "Linear subspace".
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

CONTRAST, ROTATION, SHIFT = slice(0, 1), slice(1, 4), slice(4, 6)
PARTS = (CONTRAST, ROTATION, SHIFT)
SIZE = 6
LOWEST_CONTRAST, HIGHEST_CONTRAST = 0.2, 2.0
WIDTHS = torch.logspace(-2, 0.7, 55, dtype=torch.float64)  # of a prior, in units of what it starts from
FASTEST_SHRINKAGE = 2.0  # of a prior in one pass: the maps of the first passes are not to be trusted with more
LEAST_INFORMATION = 1e-3  # of an image about a nuisance, as a share of the prior's variance that it takes away
LEAST_EMPTY, MOST_EMPTY = 1e-4, 0.3
LONGEST_TURN, LONGEST_MOVE = 0.2, 3.0  # radians and pixels: farther away, nothing is linear


@dataclass(frozen=True)
class NuisancePrior:
    """Standard deviations over the particles: of contrasts about 1, and of errors of poses about the given ones.

    `rotation_rad` about each axis of the image, `shift_px` in pixels of the image along each; 0 fixes a nuisance.
    `empty` is the share of images that show no particle at all.
    """

    contrast: float = 0.2
    rotation_rad: float = 0.02
    shift_px: float = 0.7
    empty: float = 0.01

    @property
    def deviation(self) -> Float32[Tensor, " six"]:
        """Of each nuisance, in the order of `Nuisances.value`."""
        return torch.tensor([self.contrast] + [self.rotation_rad] * 3 + [self.shift_px] * 2)

    @classmethod
    def fixed(cls) -> NuisancePrior:
        """Everything as it was given."""
        return cls(0.0, 0.0, 0.0)

    def tensor(self) -> Float64[Tensor, " four"]:
        """The numbers, to be kept in a file."""
        return torch.tensor(astuple(self), dtype=torch.float64)

    @property
    def free(self) -> list[int]:
        """The nuisances that are estimated."""
        return self.deviation.nonzero().squeeze(1).tolist()

    def averaged(self, other: NuisancePrior) -> NuisancePrior:
        """Root mean square of the numbers of two priors."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return NuisancePrior(*(math.sqrt((a * a + b * b) / 2) for a, b in pairs))

    def learnt(self, found: Nuisances, shown: Float32[Tensor, " n"]) -> NuisancePrior:
        """The deviations under which what was found with this prior is likeliest; a nuisance that is fixed remains so.

        What an image says without the prior is `e = x / (1 - v / w^2)` of variance `c = v / (1 - v / w^2)`, if `x` and
        `v` are the posterior's and `w` is the deviation of this prior; the new one maximises the likelihood of all
        `e ~ N(0, w^2 + c)`. A step of EM would take hundreds of passes to find out that there are no errors.

        Args:
            shown: the probability that an image shows a particle at all.
        """
        deviations = []
        starts = astuple(NuisancePrior())
        for now, start, part in zip((self.contrast, self.rotation_rad, self.shift_px), starts, PARTS, strict=False):
            if not now:
                deviations.append(0.0)
                continue
            kept = (1 - found.variance[:, part].double() / now**2).clamp(min=LEAST_INFORMATION)
            estimate, variance = found.value[:, part].double() / kept, found.variance[:, part].double() / kept
            likelihood = []
            for width in (start * WIDTHS).tolist():
                total = variance + width**2
                likelihood.append(float(((total.log() + estimate.square() / total) * shown[:, None]).sum()))
            best = start * float(WIDTHS[int(np.argmin(likelihood))])
            deviations.append(max(best, now / FASTEST_SHRINKAGE))
        empty = min(max(float(1 - shown.mean()), LEAST_EMPTY), MOST_EMPTY)
        contrast, rotation, shift = deviations
        return NuisancePrior(contrast, rotation, shift, empty)


@dataclass(frozen=True)
class Nuisances:
    """What was found of each particle, and its variance: contrast less 1, rotation vector, shift, both (n, 6).

    Rotations and shifts are offsets from the given pose, as `Batch.moved` takes them.
    """

    value: Float32[Tensor, "n 6"]
    variance: Float32[Tensor, "n 6"]

    @classmethod
    def none(cls, n: int) -> Nuisances:
        """Contrasts of 1 and the given poses."""
        return cls(torch.zeros(n, SIZE), torch.zeros(n, SIZE))

    @property
    def contrast(self) -> Float32[Tensor, " n"]:
        """Contrast of each particle."""
        return 1 + self.value[:, 0]

    @property
    def offset(self) -> Float32[Tensor, "n 5"]:
        """Rotation vector and shift of each particle."""
        return self.value[:, 1:]

    def rescaled(self, scale: float) -> Nuisances:
        """With contrasts divided by a scale that the maps take."""
        value = self.value.clone()
        value[:, 0] = self.contrast / scale - 1
        return replace(self, value=value)

    def shared(self, copies: int) -> Nuisances:
        """The same for all copies of a particle, which are one image: their mean."""
        if copies == 1:
            return self
        value, variance = (
            part.unflatten(0, (-1, copies)).mean(1).repeat_interleave(copies, 0) for part in (self.value, self.variance)
        )
        return Nuisances(value, variance)


def within_reach(nuisance: Float32[Tensor, "b 6"]) -> Float32[Tensor, "b 6"]:
    """Nuisances where the linear terms mean something."""
    contrast = nuisance[:, CONTRAST].clamp(LOWEST_CONTRAST - 1, HIGHEST_CONTRAST - 1)
    limited = [contrast]
    for part, longest in ((ROTATION, LONGEST_TURN), (SHIFT, LONGEST_MOVE)):
        length = nuisance[:, part].norm(dim=1, keepdim=True).clamp(min=1e-12)
        limited.append(nuisance[:, part] * (longest / length).clamp(max=1))
    return torch.cat(limited, dim=1)
