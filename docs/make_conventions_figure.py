"""Draw the figures of docs/conventions.md with the package's own physics: python docs/make_conventions_figure.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cryomorph.physics.ctf import Ctf, evaluate_ctf
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import rotation_from_euler, shift_phase
from cryomorph.physics.slicing import locate_slices, padded_grid

FOLDER = Path(__file__).parent / "figures"
BOX = 64
AXES = {"x": (21.0, "#ff5d6c"), "y": (15.0, "#3ddc84"), "z": (9.0, "#5b9bff")}
"""The phantom's arms: length in voxels and colour."""


def phantom() -> torch.Tensor:
    """A ball at the origin with an arm along +x (longest), +y and +z (shortest), as `[z, y, x]`."""
    r = torch.arange(BOX, dtype=torch.float32) - BOX // 2
    z, y, x = torch.meshgrid(r, r, r, indexing="ij")
    points = [(0.0, 0.0, 0.0, 3.0)]
    for axis, (length, _) in enumerate(AXES.values()):
        for distance in np.arange(3, length, 1.5):
            centre = [0.0, 0.0, 0.0]
            centre[axis] = float(distance)
            points.append((*centre, 1.6))
    beads = (torch.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * s**2)) for a, b, c, s in points)
    return torch.stack(list(beads)).sum(0)


def projection(volume: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """The image of a volume by the package's own central slice."""
    disk, grid = fourier_disk(BOX), padded_grid(BOX)
    slices = locate_slices(grid, disk.frequency, rotation[None])
    return disk.to_images(slices.extract(grid.from_volumes(volume[None]))[..., 0])[0]


def show(axes: Axes, image: torch.Tensor, title: str) -> None:
    """An image `[y, x]` with its origin in the middle: x to the right, y upwards, in pixels."""
    edge = BOX / 2
    extent = (-edge - 0.5, edge - 0.5, -edge - 0.5, edge - 0.5)
    axes.imshow(image.clamp(min=0).sqrt().numpy(), cmap="gray", origin="lower", extent=extent)
    axes.set_title(title, fontsize=9)
    axes.set_xticks([-32, 0, 31], ["0", "32", "63"], fontsize=7)
    axes.set_yticks([-32, 0, 31], ["0", "32", "63"], fontsize=7)
    axes.set_xlabel("x (second index)", fontsize=7, labelpad=1)
    axes.set_ylabel("y (first index)", fontsize=7, labelpad=1)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, color: str) -> None:
    """An arrow in pixels from the origin."""
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
    )


def save(figure: Figure, name: str) -> None:
    """Write a figure, the same bytes each time."""
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / name, dpi=100, metadata={"Software": None})
    plt.close(figure)


def rotation_figure() -> None:
    """The phantom's projections, with `R e` of each axis over them."""
    volume = phantom()
    views = [(0.0, 0.0, 0.0), (90.0, 0.0, 0.0), (0.0, 90.0, 0.0), (0.0, 90.0, 90.0), (20.0, 50.0, 10.0)]
    figure, row = plt.subplots(1, len(views), figsize=(13, 3.1), layout="constrained")
    for axes, view in zip(row, views, strict=True):
        rotation = rotation_from_euler(torch.tensor([view]))[0]
        show(axes, projection(volume, rotation), "rot {:.0f}, tilt {:.0f}, psi {:.0f}".format(*view))
        for column, (name, (length, color)) in enumerate(AXES.items()):
            tip = rotation[:2, column] * length
            if float(tip.norm()) > 1:
                end = (float(tip[0]) * 1.15, float(tip[1]) * 1.15)
                arrow(axes, (0, 0), end, color=color)
                axes.text(end[0] * 1.16, end[1] * 1.16, name, color=color, ha="center", va="center", fontsize=10)
    save(figure, "rotation.png")


def shift_figure() -> None:
    """A particle off the centre, its `shift_A`, and the image that the shift's phases centre."""
    disk = fourier_disk(BOX)
    shift = (9.0, -14.0)
    centred = projection(phantom(), rotation_from_euler(torch.tensor([[20.0, 50.0, 10.0]]))[0])
    frequency = disk.frequency.float() / BOX
    coefficients = disk.from_images(centred)
    seen = coefficients * shift_phase(frequency, -torch.tensor([shift]))[0]
    again = seen * shift_phase(frequency, torch.tensor([shift]))[0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 3.7), layout="constrained")
    show(left, disk.to_images(seen), "as recorded: content at $-$shift")
    arrow(left, (-shift[0], -shift[1]), (0, 0), color="#ffb000")
    left.text(0, -6, "shift = (+9, $-$14) px", color="#ffb000", fontsize=9, ha="center")
    show(right, disk.to_images(again), "times the phases of shift: centred")
    for axes in (left, right):
        axes.axhline(0, color="w", lw=0.4, ls=":")
        axes.axvline(0, color="w", lw=0.4, ls=":")
    save(figure, "shift.png")


def ctf_figure() -> None:
    """The CTF along both defocus axes, and its rings over the plane."""
    names = {"voltage_kV": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift_deg": 0.0}
    optics = {name: torch.tensor([value]) for name, value in names.items()} | {"scale": torch.ones(1)}
    u, v, angle = 18000.0, 13000.0, 30.0
    defocus = {"defocus_u_A": torch.tensor([u]), "defocus_v_A": torch.tensor([v]), "angle_deg": torch.tensor([angle])}
    ctf = Ctf(**defocus, **optics, bfactor_A2=torch.tensor([100.0]))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.7), layout="constrained", width_ratios=(1.7, 1))
    s = torch.linspace(0, 0.16, 400)
    for label, at, color in (
        ("along angle_deg: u", angle, "#d1495b"),
        ("across: v", angle + 90, "#3066be"),
    ):
        direction = torch.tensor([np.cos(np.deg2rad(at)), np.sin(np.deg2rad(at))], dtype=torch.float32)
        left.plot(s, evaluate_ctf(ctf, s[:, None] * direction)[0], color=color, lw=1.6, label=label)
    left.plot(s, torch.exp(-25 * s**2), color="0.6", lw=1, ls="--", label="envelope, B = 100 A$^2$")
    left.axhline(0, color="0.3", lw=0.7)
    left.text(0.002, 1.08, "positive at low resolution (underfocus, white particles)", fontsize=8, color="0.2")
    left.set(xlim=(0, 0.16), ylim=(-1.45, 1.25), xlabel="spatial frequency s (1/A)", ylabel="CTF")
    left.legend(fontsize=8, loc="lower right", frameon=False, ncols=3, columnspacing=1.2)
    k = torch.linspace(-0.1, 0.1, 201)
    sy, sx = torch.meshgrid(k, k, indexing="ij")
    plane = evaluate_ctf(ctf, torch.stack([sx.flatten(), sy.flatten()], dim=1)).reshape(201, 201)
    right.imshow(plane.numpy(), cmap="gray", origin="lower", extent=(-0.1, 0.1, -0.1, 0.1), vmin=-1, vmax=1)
    box = {"boxstyle": "circle,pad=0.2", "color": "w"}
    for at, color, name in ((angle, "#d1495b", "u"), (angle + 90, "#3066be", "v")):
        x, y = 0.07 * np.cos(np.deg2rad(at)), 0.07 * np.sin(np.deg2rad(at))
        arrow(right, (0, 0), (x, y), color=color)
        right.text(1.18 * x, 1.18 * y, name, color=color, ha="center", va="center", weight="bold", bbox=box)
    right.set(xlabel="s$_x$ (1/A)", ylabel="s$_y$ (1/A)", title="u 18,000 A, v 13,000 A, angle 30 degrees")
    right.title.set_fontsize(9)
    save(figure, "ctf.png")


def disk_figure() -> None:
    """The coefficients of a small disk, numbered in their order."""
    disk = fourier_disk(10)
    figure, axes = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    turn = np.linspace(0, 2 * np.pi, 200)
    for radius in (2, 3, 4, 5):
        axes.plot(radius * np.cos(turn), radius * np.sin(turn), color="0.85", lw=0.8, zorder=0)
    kx, ky = np.meshgrid(np.arange(-5, 6), np.arange(-2, 6))
    axes.scatter(kx, ky, s=6, color="0.75", zorder=1)
    x, y = disk.frequency.numpy().T
    points = axes.scatter(x, y, c=np.arange(disk.size), s=230, cmap="viridis_r", zorder=2)
    for place, (a, b) in enumerate(zip(x, y, strict=True)):
        axes.text(a, b, str(place), ha="center", va="center", fontsize=8, color="w" if place > 10 else "k", zorder=3)
    axes.plot(0, 0, "x", color="0.3", ms=7)
    axes.set(xlim=(-5.5, 5.5), ylim=(-1.5, 5.5), aspect="equal", xlabel="$k_x$", ylabel="$k_y$")
    axes.set_title("FourierDisk(10): the order of the coefficients", fontsize=9)
    figure.colorbar(points, label="place in the vector", shrink=0.8)
    save(figure, "disk.png")


if __name__ == "__main__":
    rotation_figure()
    shift_figure()
    ctf_figure()
    disk_figure()
