"""The search of poses alone, against the true map: errors, recall at each level, speed, share of time in products.

`recall` is the share of images that have a candidate within one step of the grid (its spacing) of the true rotation
when the level ends; time in products is that of the matrix products in the profile.

python benchmarks/pose_search.py SET [-n 1000]     a simulated set: particles.star, with poses, and maps/000.mrc
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from cryomorph.io.mrc import read_map
from cryomorph.particles.loader import ParticleLoader
from cryomorph.particles.store import Batch, ParticleStore
from cryomorph.physics.pose import random_rotations, rotation_distance_deg
from cryomorph.physics.so3_grid import grid_spacing_deg
from cryomorph.poses.search import (
    FoundPoses,
    MapsOnGrid,
    SearchPlan,
    first_level,
    next_level,
    search_poses,
    usual_plan,
)
from cryomorph.representations.linear import LinearSubspace
from cryomorph.volumes.backproject import reconstruct

OFFSET = random_rotations(1, torch.Generator().manual_seed(0))[0]


def batches(store: ParticleStore, count: int, radius: float) -> Iterator[Batch]:
    """The first particles, as they lie."""
    yield from ParticleLoader(store.unposed(), 256, radius=radius, subset=torch.arange(count))


def search(store: ParticleStore, map: torch.Tensor, plan: SearchPlan, count: int) -> FoundPoses:
    """Poses of the first particles."""
    radius = plan.levels[-1].radius
    disk = store.disk.within(radius)
    return search_poses(LinearSubspace(map[None]), batches(store, count, radius), plan, disk=disk, offset=OFFSET)


def recall(store: ParticleStore, map: torch.Tensor, plan: SearchPlan, count: int) -> list[float]:
    """Share of images with a candidate near the truth after each level."""
    disk = store.disk.within(plan.levels[-1].radius)
    known = MapsOnGrid.of(map[None], plan, disk=disk, offset=OFFSET)
    near = torch.zeros(len(plan.levels))
    for batch in batches(store, count, plan.levels[-1].radius):
        true = store.pose.rotation[batch.index]
        found = first_level(batch, known, plan, disk=disk)
        for number, level in enumerate(plan.levels):
            if number:
                found = next_level(batch, known, found, level=level, disk=disk)
            each = true[:, None].expand(found.rotation.shape).flatten(0, 1)
            off = rotation_distance_deg(found.rotation.flatten(0, 1), each).view(found.cell.shape)
            near[number] += (off.min(1).values < grid_spacing_deg(level.grid)).sum()
    return (near / count).tolist()


def main() -> None:
    """Prepare the set, search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("-n", type=int, default=1000, help="how many particles; all of them serve the map's scale")
    parser.add_argument("--radius", type=int, default=20, help="of the last level, in Fourier pixels")
    given = parser.parse_args()
    for needed in ("particles.star", "maps/000.mrc"):
        if not (given.set / needed).is_file():
            parser.error(f"{given.set / needed}: no such file; give the folder of a simulated set")
    with tempfile.TemporaryDirectory(prefix="cryomorph-poses-") as scratch:
        folder = Path(scratch) / "store"
        command = [
            sys.executable,
            "-m",
            "cryomorph.cli.main",
            "prepare",
            str(given.set / "particles.star"),
            "-o",
            str(folder),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        store = ParticleStore.open(folder)
        map = torch.from_numpy(read_map(given.set / "maps" / "000.mrc")[0].copy())
        map *= (map * reconstruct(store).map).sum() / map.square().sum()
        plan, count = usual_plan(store.box, given.radius), min(given.n, len(store))
        for scale in (1.0, 0.3, 3.0):
            begin = time.perf_counter()
            found = search(store, scale * map, plan, count)
            seconds = time.perf_counter() - begin
            off = rotation_distance_deg(found.rotation, store.pose.rotation[:count])
            away = torch.linalg.vector_norm(found.shift - store.pose.shift_A[:count] / store.pixel_A, dim=1)
            print(
                f"map times {scale}: median {off.median():.2f} degrees, {away.median():.3f} pixels; "
                f"{100 * (off < 10).double().mean():.1f} % within 10 degrees; {count / seconds:.0f} images a second",
                flush=True,
            )
        shares = recall(store, map, plan, count)
        for level, share in zip(plan.levels, shares, strict=True):
            print(f"level {level.grid}, radius {level.radius}, {level.beams} candidates: recall {100 * share:.1f} %")
        with profile(activities=[ProfilerActivity.CPU]) as record:
            search(store, map, plan, min(count, 500))
        times = {event.key: event.self_cpu_time_total for event in record.key_averages()}
        products = sum(times.get(name, 0.0) for name in ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"))
        print(f"time in matrix products: {100 * products / sum(times.values()):.0f} %")


if __name__ == "__main__":
    main()
