"""What convolutional volumes cost.

1. Images a second of the training itself, by both recipes, beside the neural field: whole runs of `train` on simulated
   images, one epoch at the full band, as `metrics.jsonl` tells. Stages before it are kept as short as they can be.
2. Milliseconds an image of central slices of a cube of its own, forward and backward: ours, which makes and forgets one
   padded transform after another, beside autograd through a padded transform of the whole batch.

Figures are medians of --repeats rounds in which the ways are run in turn, so that whatever else the machine does falls
on all of them.

python benchmarks/conv_volume.py [--quick] [--boxes 32 64] [--images 2000] [--device cpu] [--cube 32]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cryomorph.commands.train import train
from cryomorph.config.conv_volume import ConvConfig, ConvVolumeConfig
from cryomorph.config.neural_field import NeuralFieldConfig
from cryomorph.config.simulate import SimulateConfig
from cryomorph.config.training import TrainingConfig
from cryomorph.physics.disk import FourierDisk, fourier_disk
from cryomorph.physics.pose import random_rotations
from cryomorph.physics.projection import project_volumes
from cryomorph.physics.slicing import locate_slices, padded_grid
from cryomorph.simulation.sets import simulate_set

EXTENT_A = 256.0
BATCH = 8


def rates(ways: dict[str, ConvVolumeConfig | NeuralFieldConfig], folder: Path, *, repeats: int) -> dict[str, float]:
    """Images a second of each way to train."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats):
        for name, config in ways.items():
            run = train(replace(config, output=folder / f"{name.replace(' ', '-')}-{number}"))
            rows = map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())
            found[name].append([row["images_per_second"] for row in rows if row.get("stage") == "joint"][-1])
    return {name: statistics.median(each) for name, each in found.items()}


def training(given: argparse.Namespace) -> None:
    """The table of images a second."""
    print("\n| box | method | recipe | images / s | of the neural field's |\n|---:|---|---|---:|---:|")
    for box in given.boxes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            made = SimulateConfig("uniform", folder / "set", n=given.images, box=box, pixel_A=EXTENT_A / box)
            source = simulate_set(made) / "particles.star"
            plan = TrainingConfig(epochs=1, radius_share=0.0, final_model="last", device=given.device)
            ways: dict[str, ConvVolumeConfig | NeuralFieldConfig] = {}
            for recipe in ("default", "paper"):
                short = {"recipe": recipe, "training": plan, "linear_radius": 6, "linear_zdim": 1, "warm_steps": 1}
                ways[f"neural-field {recipe}"] = NeuralFieldConfig(source, folder, **short)
                ways[f"conv-volume {recipe}"] = ConvVolumeConfig(
                    source, folder, network=ConvConfig(cube=given.cube), **short
                )
            found = rates(ways, folder, repeats=given.repeats)
        for name, rate in found.items():
            method, recipe = name.split()
            print(f"| {box} | {method} | {recipe} | {rate:,.0f} | {rate / found[f'neural-field {recipe}']:.2f} |")


def through_whole_grids(volumes: Tensor, rotation: Tensor, disk: FourierDisk) -> Tensor:
    """As `project_volumes` for one volume and view of each row, with autograd through padded transforms."""
    grid = padded_grid(disk.box)
    padded = torch.nn.functional.pad(volumes[:, 0] / grid.attenuation, (disk.box // 2,) * 6)
    transform = torch.fft.rfftn(torch.fft.ifftshift(padded, dim=(1, 2, 3)), dim=(1, 2, 3))
    place = locate_slices(grid, disk.frequency, rotation[:, 0])
    row = place.row.long() + (grid.rows * torch.arange(len(volumes))).repeat_interleave(disk.size)[:, None]
    values = (transform.flatten()[row] * place.weight).sum(1)
    return torch.where(place.flipped, values.conj(), values).view(len(volumes), 1, disk.size, 1)


def projection(given: argparse.Namespace) -> None:
    """The table of slices."""
    ways: dict[str, Callable[[Tensor, Tensor, FourierDisk], Tensor]] = {
        "one by one": project_volumes,
        "whole batch": through_whole_grids,
    }
    print("\n| box | slices one by one: ms / image | whole batch: ms / image | faster |\n|---:|---:|---:|---:|")
    for box in given.boxes:
        disk, chance = fourier_disk(box), torch.Generator().manual_seed(0)
        volumes = torch.randn(BATCH, 1, box, box, box, generator=chance)
        rotation = random_rotations(BATCH, chance)[:, None]
        one, other = (way(volumes, rotation, disk) for way in ways.values())
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * float(one.abs().max()))
        taken = timed(ways, volumes, (rotation, disk), repeats=1 + 2 * given.repeats)
        one_by_one, whole = (taken[name] * 1e3 / BATCH for name in ways)
        print(f"| {box} | {one_by_one:.2f} | {whole:.2f} | {whole / one_by_one:.1f}x |")


def timed(
    ways: dict[str, Callable[[Tensor, Tensor, FourierDisk], Tensor]],
    volumes: Tensor,
    seen: tuple[Tensor, FourierDisk],
    *,
    repeats: int,
) -> dict[str, float]:
    """Seconds of each way, forward and backward; the first round is left out."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.perf_counter()
            way(volumes.requires_grad_(), *seen).abs().sum().backward()
            taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(each[1:] or each) for name, each in taken.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: does the script work?")
    parser.add_argument("--boxes", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cube", type=int, default=None, help="side of the cube; the box without")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    if given.quick:
        given.boxes, given.images, given.repeats = [16], 200, 1
    training(given)
    if given.device == "cpu":
        projection(given)


if __name__ == "__main__":
    main()
