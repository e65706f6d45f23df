"""Fourier shell correlation of two maps, and their resolution."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path
from cryomorph.volumes.grid import cubic_box, frequency_grid

RANDOMISE_BELOW = 0.8  # phases are randomised from the first shell where the unmasked FSC is below this
CORRECT_AFTER = 2  # shells: just after the cut-off, the mask still leaks from the phases that were kept


@lru_cache(maxsize=2)
def _half_shells(box: int) -> tuple[Int64[Tensor, " coefficients"], Float[Tensor, " half"]]:
    """Shell of each coefficient of `rfftn`, flattened, with one bin for those beyond the last; multiplicity along x."""
    shell = (frequency_grid(box).double() * box).round().long().clamp(max=box // 2)
    multiplicity = torch.full((box // 2 + 1,), 2.0)
    multiplicity[0] = 1
    if box % 2 == 0:
        multiplicity[-1] = 1
    return shell.flatten(), multiplicity


def shell_sum(values: Float[Tensor, "*n z y half"], box: int) -> Float64[Tensor, "*n shells"]:
    """Sum a real quantity, given on `rfftn`'s coefficients, over shells 0 to `box // 2 - 1` of the full transform."""
    shell, multiplicity = _half_shells(box)
    flat = (values * multiplicity.to(values)).double().flatten(-3)
    total = flat.new_zeros((*flat.shape[:-1], box // 2 + 1))
    return total.index_add_(-1, shell.to(flat.device), flat)[..., :-1]


def fsc(a: Float[Tensor, "*#n z y x"], b: Float[Tensor, "*#n zb yb xb"]) -> Float[Tensor, "*n shells"]:
    """Fourier shell correlation of two maps, of two batches of maps, or of one map with each of a batch.

    Returns:
        Entry `i` is shell `i`, at `i / (box pixel_A)` cycles per Angstrom, for `i` from 0 to `box // 2 - 1`; it is 0
        where one map has no power.

    Raises:
        InputError: the boxes differ or are not cubic.
    """
    box = cubic_box(a)
    if cubic_box(b) != box:
        raise InputError(f"maps of box {box} and {cubic_box(b)}: expected the same; resample one of them")
    axes = (-3, -2, -1)
    ft_a, ft_b = torch.fft.rfftn(a, dim=axes), torch.fft.rfftn(b, dim=axes)
    cross = shell_sum((ft_a * ft_b.conj()).real, box)
    power = shell_sum(ft_a.abs() ** 2, box) * shell_sum(ft_b.abs() ** 2, box)
    tiny = torch.finfo(power.dtype).tiny
    return torch.where(power > tiny, cross / power.clamp(min=tiny).sqrt(), 0).to(a.dtype)


def shell_resolution_A(shells: int, pixel_A: float, *, box: int | None = None) -> Float[np.ndarray, " shells"]:
    """Resolution of each shell in Angstrom, infinite at shell 0; the box is `2 shells` by default."""
    box = 2 * shells if box is None else box
    return np.array([math.inf, *(box * pixel_A / np.arange(1, shells))])


def resolution_A(
    curve: Float[Tensor, " shells"] | Float[np.ndarray, " shells"],
    pixel_A: float,
    threshold: float = 0.143,
    *,
    box: int | None = None,
) -> float:
    """Resolution at which an FSC curve first falls below a threshold, linear in frequency between shells.

    Args:
        box: needed if the maps' box is odd (default: twice the number of shells).

    Returns:
        Angstrom: `2 pixel_A` (Nyquist) if the curve never falls below, the length of the box if shell 1 already does.
    """
    values = np.asarray(curve, dtype=float)
    box_A = (box or 2 * len(values)) * pixel_A
    below = np.flatnonzero(values[1:] < threshold) + 1
    if len(below) == 0:
        return 2 * pixel_A
    shell = int(below[0])
    if shell == 1:
        return box_A
    before, after = values[shell - 1], values[shell]
    return float(box_A / (shell - 1 + (before - threshold) / (before - after)))


def is_nyquist(found_A: float, pixel_A: float) -> bool:
    """Whether a resolution is only where the curve ends, above the threshold: the pixel limits it, not the data."""
    return found_A <= 2 * pixel_A


@dataclass(frozen=True)
class FscReport:
    """The FSC curves of two half maps; those that need a mask are None without one.

    `corrected` is Chen et al. 2013 (Ultramicroscopy 135, 24), equation 4. Where the unmasked curve never falls below
    0.8, no phases are randomised: `phase_randomised` is None and `corrected` the masked curve.
    """

    pixel_A: float
    box: int
    unmasked: Float[Tensor, " shells"]
    masked: Float[Tensor, " shells"] | None = None
    phase_randomised: Float[Tensor, " shells"] | None = None
    corrected: Float[Tensor, " shells"] | None = None

    def resolved(self, threshold: float) -> str:
        """Resolution of the best curve at a threshold, in words."""
        found = resolution_A(self.best, self.pixel_A, threshold, box=self.box)
        return f"{found:.2f} A{' or better (Nyquist)' * is_nyquist(found, self.pixel_A)}"

    @property
    def best(self) -> Float[Tensor, " shells"]:
        """The corrected curve, or without a mask the unmasked one."""
        return self.unmasked if self.corrected is None else self.corrected

    @property
    def resolution_0143_A(self) -> float:
        """Resolution of the best curve at 0.143."""
        return resolution_A(self.best, self.pixel_A, 0.143, box=self.box)

    @property
    def resolution_05_A(self) -> float:
        """Resolution of the best curve at 0.5."""
        return resolution_A(self.best, self.pixel_A, 0.5, box=self.box)

    @property
    def unmasked_0143_A(self) -> float:
        """Resolution of the unmasked curve at 0.143."""
        return resolution_A(self.unmasked, self.pixel_A, 0.143, box=self.box)

    @property
    def unmasked_05_A(self) -> float:
        """Resolution of the unmasked curve at 0.5."""
        return resolution_A(self.unmasked, self.pixel_A, 0.5, box=self.box)

    def curves(self) -> dict[str, Float[Tensor, " shells"] | None]:
        """The four curves by name, in the order of the table's columns."""
        return {name: getattr(self, name) for name in ("unmasked", "masked", "phase_randomised", "corrected")}

    def write_csv(self, path: Path | str) -> None:
        """Write a table of shell, resolution_A and the four curves; columns of missing curves are empty."""
        resolution = shell_resolution_A(len(self.unmasked), self.pixel_A, box=self.box)
        with atomic_path(Path(path)) as temporary, temporary.open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["shell", "resolution_A", *self.curves()])
            for shell, at in enumerate(resolution):
                values = ("" if curve is None else f"{float(curve[shell]):.6f}" for curve in self.curves().values())
                table.writerow([shell, f"{at:.4f}", *values])

    def write_plot(self, path: Path | str) -> None:
        """Plot the curves against spatial frequency, with the thresholds 0.143 and 0.5."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        frequency = np.arange(len(self.unmasked)) / (self.box * self.pixel_A)
        styles = {"unmasked": ("0.55", 1.4), "masked": ("#2a7ab9", 1.4), "phase_randomised": ("#c8553d", 1.2)}
        for name, curve in self.curves().items():
            if curve is not None:
                colour, width = styles.get(name, ("black", 2.0))
                axes.plot(frequency, curve.numpy(), color=colour, linewidth=width, label=name.replace("_", " "))
        for threshold, found in ((0.143, self.resolution_0143_A), (0.5, self.resolution_05_A)):
            axes.axhline(threshold, color="0.7", linewidth=0.8, linestyle="--", zorder=0)
            limited = is_nyquist(found, self.pixel_A)
            where = f"above {threshold} to Nyquist" if limited else f"{found:.2f} Å at {threshold}"
            axes.annotate(where, (0.5 / self.pixel_A, threshold), (-2, 3), ha="right", fontsize=8,
                          color="0.35", textcoords="offset points")  # fmt: skip
        low = min(float(curve.min()) for curve in self.curves().values() if curve is not None)
        axes.set(
            xlabel="spatial frequency (1/Å)", ylabel="Fourier shell correlation", ylim=(min(-0.1, low - 0.05), 1.05)
        )
        axes.set_xlim(0, 0.5 / self.pixel_A)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(framealpha=0.9, edgecolor="none", fontsize=9)
        with atomic_path(Path(path)) as temporary:
            figure.savefig(temporary, dpi=160)


def randomise_phases(map: Float[Tensor, "z y x"], from_shell: int, *, seed: int) -> Float[Tensor, "z y x"]:
    """Randomise the phases of all shells from `from_shell` on; amplitudes are kept, and the map remains real."""
    generator = torch.Generator().manual_seed(seed)
    # the transform of real white noise has uniform phases with Friedel symmetry
    noise = torch.fft.rfftn(torch.randn(map.shape, generator=generator).to(map))
    transform = torch.fft.rfftn(map)
    random = torch.polar(transform.abs(), noise.angle())
    shell = (frequency_grid(map.shape[-1]).double() * map.shape[-1]).round().to(map.device)
    return torch.fft.irfftn(torch.where(shell >= from_shell, random, transform), s=map.shape)


def half_map_fsc(
    half1: Float[Tensor, "z y x"],
    half2: Float[Tensor, "z2 y2 x2"],
    mask: Float[Tensor, "zm ym xm"] | None = None,
    *,
    pixel_A: float,
    seed: int = 0,
) -> FscReport:
    """FSC of two half maps within a mask, corrected for the correlation that the mask causes.

    Phases are randomised from the first shell where the unmasked FSC is below 0.8; two shells after it the corrected
    curve is `(masked - randomised) / (1 - randomised)` (Chen et al. 2013, equation 4), before it the masked one.

    Raises:
        InputError: the boxes differ, the mask is empty, or its values are not between 0 and 1.
    """
    box = cubic_box(half1)
    unmasked = fsc(half1, half2).cpu()
    if mask is None:
        return FscReport(pixel_A=pixel_A, box=box, unmasked=unmasked)
    if mask.shape != half1.shape:
        raise InputError(f"mask of box {mask.shape[-1]} for maps of box {box}: expected the same")
    if float(mask.max()) <= 0 or float(mask.min()) < -1e-3 or float(mask.max()) > 1.001:
        low, high = float(mask.min()), float(mask.max())
        raise InputError(f"mask with values from {low:g} to {high:g}: expected 0 outside and 1 inside")
    masked = fsc(half1 * mask, half2 * mask).cpu()
    below = torch.nonzero(unmasked[1:] < RANDOMISE_BELOW)
    if len(below) == 0:
        return FscReport(pixel_A, box, unmasked, masked, corrected=masked.clone())
    start = int(below[0]) + 1
    random1 = randomise_phases(half1, start, seed=2 * seed)
    random2 = randomise_phases(half2, start, seed=2 * seed + 1)
    randomised = fsc(random1 * mask, random2 * mask).cpu()
    corrected = masked.clone()
    after = slice(start + CORRECT_AFTER, None)
    corrected[after] = (masked[after] - randomised[after]) / (1 - randomised[after]).clamp(min=1e-3)
    return FscReport(pixel_A, box, unmasked, masked, randomised, corrected)
