"""What one point costs: locating, extracting and inserting slices, as `physics/slicing.py` does it and as it might.

Best of several runs over one batch, in nanoseconds for each point; a column is a complex volume with its real weight.
The two ways of each line are run in turn, so that whatever else the machine does falls on both.

python benchmarks/slicing.py [--box 64] [--points 400000] [--repeats 5]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations
from cryomorph.physics.slicing import PaddedGrid, Slices, locate_slices, padded_grid

COLUMNS = (1, 5)


def best(ways: dict[str, Callable[[], object]], *, repeats: int, points: int) -> dict[str, float]:
    """Nanoseconds for each point of every way, the least of `repeats` rounds in which each is run once."""
    least = dict.fromkeys(ways, float("inf"))
    for way in ways.values():
        way()
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            least[name] = min(least[name], time.perf_counter() - start)
    return {name: 1e9 * seconds / points for name, seconds in least.items()}


def locate_broadcast(grid: PaddedGrid, frequency: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and weights of the eight corners as one product over them."""
    k3 = ((frequency.float() * grid.padding) @ rotation[:, :2]).flatten(0, 1)
    k3 = torch.where(k3[:, :1] < 0, -k3, k3)
    low = k3.floor()
    corner = torch.tensor([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)])
    share = torch.where(corner.bool(), (k3 - low)[:, None], 1 - (k3 - low)[:, None]).prod(-1)
    x, y, z = (low.int()[:, None] + corner.int()).unbind(-1)
    return ((z % grid.edge) * grid.edge + y % grid.edge) * grid.half + x, share


def real_columns(values: Tensor, weights: Tensor, flipped: Tensor) -> Tensor:
    """Complex values and their weights as real columns, conjugated where their points are."""
    flat = values.flatten(0, 1)
    sign = 1 - 2 * flipped.float()[:, None]
    return torch.cat([flat.real, flat.imag * sign, weights.flatten(0, 1)], 1)


def insert_index_add(slices: Slices, values: Tensor, weights: Tensor) -> Tensor:
    """Insertion by `index_add_`, one corner after another."""
    columns = real_columns(values, weights, slices.flipped)
    out = columns.new_zeros(slices.grid.rows, columns.shape[1])
    for corner in range(8):
        out.index_add_(0, slices.row[:, corner], columns * slices.weight[:, corner, None])
    return out


def insert_scatter_add(slices: Slices, values: Tensor, weights: Tensor) -> Tensor:
    """Insertion by `scatter_add_`, one corner after another."""
    columns = real_columns(values, weights, slices.flipped)
    out = columns.new_zeros(slices.grid.rows, columns.shape[1])
    row = slices.row.long()
    for corner in range(8):
        index = row[:, corner, None].expand_as(columns)
        out.scatter_add_(0, index, columns * slices.weight[:, corner, None])
    return out


def extract_gather(slices: Slices, grid: Tensor) -> Tensor:
    """Extraction by fancy indexing, one corner after another."""
    total = grid.new_zeros(len(slices.row), grid.shape[1])
    for corner in range(8):
        total += grid[slices.row[:, corner]] * slices.weight[:, corner, None]
    return torch.where(slices.flipped[:, None], total.conj(), total).unflatten(0, slices.shape)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--box", type=int, default=64, help="box of the grid")
    parser.add_argument("--points", type=int, default=400_000, help="points of the batch")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()

    grid, disk = padded_grid(given.box), fourier_disk(given.box)
    chance = torch.Generator().manual_seed(0)
    rotation = random_rotations(max(1, given.points // disk.size), chance)
    slices = locate_slices(grid, disk.frequency, rotation)
    points = len(slices.row)
    print(f"box {given.box}, {points} points, {torch.get_num_threads()} threads; ns per point, ratio to the first way")

    def line(title: str, ways: dict[str, Callable[[], object]]) -> None:
        cost = best(ways, repeats=given.repeats, points=points)
        first = next(iter(cost.values()))
        print(f"{title:20}" + "".join(f"{name:>16} {ns:7.0f} ({ns / first:4.1f}x)" for name, ns in cost.items()))

    line(
        "locate",
        {
            "column-wise": lambda: locate_slices(grid, disk.frequency, rotation),
            "broadcast": lambda: locate_broadcast(grid, disk.frequency, rotation),
        },
    )
    for columns in COLUMNS:
        model = torch.randn(grid.rows, columns, dtype=torch.complex64, generator=chance)
        values = torch.randn(*slices.shape, columns, dtype=torch.complex64, generator=chance)
        weights = torch.rand(*slices.shape, columns, generator=chance)
        expected, density = slices.insert(values, weights)
        for other in (insert_index_add, insert_scatter_add):
            summed = other(slices, values, weights)
            torch.testing.assert_close(summed[:, :columns], expected.real, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(summed[:, -columns:], density, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(extract_gather(slices, model), slices.extract(model), rtol=1e-3, atol=1e-3)
        line(
            f"extract, {columns} column{'s' * (columns > 1)}",
            {
                "embedding_bag": lambda model=model: slices.extract(model),
                "indexing": lambda model=model: extract_gather(slices, model),
            },
        )
        line(
            f"insert, {columns} column{'s' * (columns > 1)}",
            {
                "scipy sparse": lambda v=values, w=weights: slices.insert(v, w),
                "index_add_": lambda v=values, w=weights: insert_index_add(slices, v, w),
                "scatter_add_": lambda v=values, w=weights: insert_scatter_add(slices, v, w),
            },
        )


if __name__ == "__main__":
    main()
