"""Sharpening: restore the amplitudes of high frequencies by a B-factor, weighted by the FSC of the half maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.volumes.fsc import FscReport, shell_sum
from cryomorph.volumes.fsc import fsc as half_map_correlation
from cryomorph.volumes.fsc import resolution_A as fsc_resolution_A
from cryomorph.volumes.grid import apply_gain, cubic_box, frequency_grid, lowpass_gain

MIN_SHELLS = 4  # for a line fit


@dataclass(frozen=True)
class Sharpened:
    """A sharpened map, and the B-factor in Angstrom^2 that it was sharpened by (negative)."""

    map: Float[Tensor, "z y x"]
    bfactor_A2: float


def sharpen_halves(
    half1: Float[Tensor, "z y x"],
    half2: Float[Tensor, "z y x"],
    report: FscReport,
    *,
    mask: Float[Tensor, "z y x"] | None = None,
    bfactor_A2: float | None = None,
) -> Sharpened:
    """Sharpen the average of two unfiltered half maps, weight it by their FSC, and low-pass it to their resolution.

    Args:
        report: of the two half maps, inside `mask` where there is one.
        mask: the mask of the report, inside which the B-factor is fitted: the solvent's noise is not in the curve.
        bfactor_A2: to use in place of the fitted one.
    """
    average = (half1 + half2) / 2
    found_A, curve = report.resolution_0143_A, report.best
    if bfactor_A2 is None:
        inside = average if mask is None else average * mask
        bfactor_A2 = guinier_bfactor(inside, report.pixel_A, found_A, fsc=curve)
    return Sharpened(sharpen(average, bfactor_A2, report.pixel_A, fsc=curve, resolution_A=found_A), bfactor_A2)


def fsc_weight(curve: Float[Tensor, " shells"]) -> Float[Tensor, " shells"]:
    """`sqrt(2 FSC / (1 + FSC))`, the expected correlation with a noiseless map; 0 where the FSC is negative.

    Rosenthal and Henderson 2003 (J. Mol. Biol. 333, 721), equation 11. Shell 0 has weight 1.
    """
    positive = curve.clamp(0, 1)
    weight = (2 * positive / (1 + positive)).sqrt()
    weight[0] = 1
    return weight


def fsc_weighted(a: Float[Tensor, "z y x"], b: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """The average of two half maps, Wiener-filtered by their FSC: each shell times `2 FSC / (1 + FSC)`."""
    box = cubic_box(a)
    return apply_gain((a + b) / 2, _weight_gain(half_map_correlation(a, b), box).square())


def guinier_bfactor(
    map: Float[Tensor, "z y x"],
    pixel_A: float,
    resolution_A: float,
    *,
    low_A: float = 10.0,
    fsc: Float[Tensor, " shells"] | None = None,
) -> float:
    """The B-factor in Angstrom^2 that sharpens a map: four times the slope of `ln amplitude` against `1 / d^2`.

    The line is fitted from `low_A` to `resolution_A`. A map that needs sharpening has a negative value, as `sharpen`
    expects it. With fewer than four shells in that range, the fall-off reflects the molecule's shape rather than a
    B-factor: the value is 0, with a warning.

    Args:
        map: the average of two half maps without any filter, which would be fitted along with the fall-off.
        fsc: of the two half maps. Amplitudes are multiplied by `fsc_weight`, which makes them those of the signal alone
            (Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721), and each shell of `n` coefficients counts by its
            precision, `n FSC^2 / (1 + FSC^2)` (the inverse variance of the half maps' cross-power, relative to it);
            without a curve by `n`.
    """
    box = cubic_box(map)
    power = shell_sum(torch.fft.rfftn(map).abs() ** 2, box).cpu()
    count = shell_sum(torch.ones(box, box, box // 2 + 1), box)
    amplitude, precision = (power / count).sqrt(), count
    if fsc is not None:
        amplitude = amplitude * _checked(fsc, box)
        precision = count * fsc.cpu().square() / (1 + fsc.cpu().square())
    per_A2 = (torch.arange(len(amplitude), dtype=torch.float64) / (box * pixel_A)) ** 2
    use = (per_A2 >= 1 / low_A**2) & (per_A2 <= 1 / resolution_A**2) & (amplitude > 0)
    if int(use.sum()) < MIN_SHELLS:
        warn(
            f"no B-factor from a Guinier fit: {int(use.sum())} shells lie between {low_A:g} A and {resolution_A:.1f} A "
            f"and at least {MIN_SHELLS} are needed; the map is not sharpened"
        )
        return 0.0
    weight = precision[use].sqrt().numpy()
    slope = np.polynomial.polynomial.polyfit(per_A2[use].numpy(), amplitude[use].log().numpy(), 1, w=weight)[1]
    return float(4 * slope)


def sharpen(
    map: Float[Tensor, "z y x"],
    bfactor_A2: float,
    pixel_A: float,
    *,
    fsc: Float[Tensor, " shells"] | None = None,
    resolution_A: float | None = None,
) -> Float[Tensor, "z y x"]:
    """Multiply a map's amplitudes by `exp(-B / 4 d^2)`, so that a negative B-factor sharpens, and low-pass it.

    Args:
        fsc: weight each shell by `fsc_weight` of this half-map curve.
        resolution_A: of the low-pass filter (default: the curve's resolution at 0.143, or Nyquist without a curve).

    Raises:
        InputError: the curve belongs to another box, or amplitudes would be multiplied by more than exp(40).
    """
    box = cubic_box(map)
    if resolution_A is None:
        resolution_A = 2 * pixel_A if fsc is None else fsc_resolution_A(fsc, pixel_A, 0.143, box=box)
    gain = lowpass_gain(box, pixel_A, resolution_A).double()
    passed = gain > 0
    frequency_per_A = frequency_grid(box).double() / pixel_A
    exponent = (-bfactor_A2 / 4) * frequency_per_A**2
    steepest = float(exponent[passed].max())
    if steepest > 40:
        raise InputError(
            f"B-factor {bfactor_A2:g} A^2 at {resolution_A:.2f} A multiplies amplitudes by exp({steepest:.0f}): "
            "expected a B-factor nearer 0, or a coarser resolution"
        )
    gain[passed] *= exponent[passed].exp()
    if fsc is not None:
        gain *= _weight_gain(fsc, box)
    return apply_gain(map, gain)


def _weight_gain(curve: Float[Tensor, " shells"], box: int) -> Float64[Tensor, "z y half"]:
    """The weights of a curve on `frequency_grid(box)`, interpolated between shells; 0 beyond Nyquist."""
    weight = F.pad(_checked(curve, box).double()[None], (0, 1), mode="replicate")[0]
    radius = frequency_grid(box).double() * box
    lower = radius.floor().long().clamp(max=len(weight) - 2)
    return torch.lerp(weight[lower], weight[lower + 1], (radius - lower).clamp(max=1)) * (radius <= box / 2)


def _checked(curve: Float[Tensor, " shells"], box: int) -> Float[Tensor, " shells"]:
    """The weights of a curve, which must fit the box."""
    if len(curve) != box // 2:
        raise InputError(f"an FSC curve of {len(curve)} shells for a map of box {box}: expected {box // 2}")
    return fsc_weight(curve.cpu())
