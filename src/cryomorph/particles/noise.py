"""The noise of every image: the spectrum of its optics group, and its own level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex64, Float32, Int64
from torch import Tensor

from cryomorph.physics.disk import FourierDisk
from cryomorph.physics.noise import typical_power

FEWEST = 20  # images whose surroundings say what the noise of a group is
LEAST_LEVEL = 0.05  # of the noise's power, relative to the median image and to the noise outside the particle


@dataclass(frozen=True)
class NoiseModel:
    """Noise power of a coefficient, in units of the store's: `power` (g, shells) of an optics group times `level` (n,).

    Shells go from 0 to `box / 2`; `group` (n,) numbers the optics groups from 0.
    """

    power: Float32[Tensor, "g shells"]
    level: Float32[Tensor, " n"]
    group: Int64[Tensor, " n"]

    def whitening(self, index: Int64[Tensor, " b"], shell: Int64[Tensor, " m"]) -> Float32[Tensor, "b m"]:
        """What gives the coefficients of some particles a noise of variance 1."""
        return (self.power[self.group[index]][:, shell] * self.level[index, None]).rsqrt()

    def mean_power(self) -> Float32[Tensor, " shells"]:
        """The power of a white noise that weights all images together as theirs does: the harmonic mean by group."""
        share = torch.bincount(self.group, minlength=len(self.power)).to(self.power) / len(self.group)
        return (share[:, None] / self.power).sum(0).reciprocal()


def robust_level(power: Float32[Tensor, "b m"]) -> Float32[Tensor, " b"]:
    """Mean of exponentially distributed powers by their median: a few that are too large change nothing."""
    return power.median(dim=1).values / torch.log(torch.tensor(2.0))


def robust_power(
    image_power: Float32[Tensor, "n shells"], count: Int64[Tensor, " shells"]
) -> Float32[Tensor, " shells"]:
    """Mean power in each shell by the median over images; a mean of `count` powers is gamma-distributed."""
    # Wilson and Hilferty's approximation of the median of a gamma distribution of mean 1
    expected = (1 - 1 / (9 * count.clamp(min=1).float())) ** 3
    return image_power.median(dim=0).values / expected


def power_of(image: Complex64[Tensor, "b m"]) -> Float32[Tensor, "b m"]:
    """Squared modulus of every coefficient."""
    return torch.view_as_real(image).square().sum(-1)


def level_of(
    image: Complex64[Tensor, "b size"], disk: FourierDisk, spectrum: Float32[Tensor, "b shells"]
) -> Float32[Tensor, " b"]:
    """Noise power of each image relative to a spectrum, by the upper half of the band, where it exceeds the signal."""
    start = disk.count(disk.box / 4)
    return robust_level(power_of(image[:, start:]) / spectrum[:, disk.shell[start:]])


def outside_by_group(
    by_image: Float32[Tensor, "n shells"],
    group: Int64[Tensor, " n"],
    groups: int,
    *,
    amplitude: Float32[Tensor, " shells"],
) -> Float32[Tensor, "groups shells"]:
    """Noise power around the particles of each optics group, relative to that of an amplitude.

    Groups of a few images are taken to be like all.

    Args:
        by_image: of some images, see `outside_power`, and the group of each.
    """
    every = typical_power(by_image) / amplitude.square()
    found = every.repeat(groups, 1)
    for number, count in enumerate(torch.bincount(group, minlength=groups).tolist()):
        if count >= FEWEST:
            found[number] = typical_power(by_image[group == number]) / amplitude.square()
    return found
