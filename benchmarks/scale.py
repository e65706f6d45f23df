"""A large set on a small machine: `cryomorph prepare` of 100,000 images at box 128, then one EM iteration on it.

A smaller simulated set is repeated by the rows of a STAR file. Every step runs in a process of its own; printed are its
seconds, its processor seconds and the most memory that was resident in it at once (what the kernel counts, mapped
pages included). The profile runs the steps of `prepare` one after another on one thread.

python benchmarks/scale.py --workdir /tmp/scale [-n 100000] [--box 128] [--distinct 3000] [--skip-em]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

# the kernel counts what this process held when it started another as the other's: so nothing large is imported here


def step(title: str, *command: object) -> float:
    """Run a command; print what it took and return its seconds."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, command)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{title} failed")
    spent, resident = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    load = os.getloadavg()[0]
    print(
        f"{title}: {seconds:.1f} s, {spent:.1f} processor s, {resident:.0f} MiB resident, load {load:.1f}", flush=True
    )
    return seconds


def repeat_rows(source: Path, target: Path, n: int) -> None:
    """A STAR file of `n` particles: the rows of another, again and again."""
    import numpy as np

    from cryomorph.io.star import read_star, write_star

    blocks = read_star(source)
    table = blocks["particles"]
    repeated = table.iloc[np.arange(n) % len(table)]
    repeated.attrs = dict(table.attrs)
    write_star(target, {**blocks, "particles": repeated})


def profile(source: Path, box: int, images: int) -> None:
    """Print the microseconds that each part of `prepare` takes for an image."""
    import numpy as np
    import torch

    from cryomorph.particles import prepare
    from cryomorph.particles.image_faults import faults
    from cryomorph.particles.metadata import read_particles
    from cryomorph.physics.disk import fourier_disk

    torch.set_num_threads(1)
    start = time.perf_counter()
    particles = read_particles(source)
    print(f"  metadata of {len(particles)} particles: {time.perf_counter() - start:.1f} s, once")
    disk = fourier_disk(box)
    scale = torch.rand(disk.size)
    block = max(1, prepare.BLOCK_BYTES // (4 * particles.box**2))
    spent: dict[str, float] = {}
    with (source.parent / "profile.bin").open("wb") as file:
        for first in range(0, images, block):
            clock = [time.perf_counter()]
            given = torch.from_numpy(particles.read(np.arange(first, min(first + block, images))))
            clock.append(time.perf_counter())
            faults(given)
            clock.append(time.perf_counter())
            coefficients = disk.from_images(given)
            clock.append(time.perf_counter())
            stored = prepare._as_stored(coefficients, scale)
            clock.append(time.perf_counter())
            file.write(stored.numpy().data)
            clock.append(time.perf_counter())
            torch.fft.rfft2(given)
            clock.append(time.perf_counter())
            parts = ("read", "check", "Fourier disk", "scale and round", "write", "of the disk: FFT alone")
            for name, begin, end in zip(parts, clock, clock[1:], strict=False):
                spent[name] = spent.get(name, 0.0) + end - begin
    (source.parent / "profile.bin").unlink()
    whole = sum(list(spent.values())[:-1])
    for name, seconds in spent.items():
        print(f"  {name:24} {1e6 * seconds / images:6.0f} us per image  {seconds / whole:4.0%}")
    print(f"  sum {1e6 * whole / images:.0f} us: {images / whole:.0f} images per second and thread", flush=True)


def em_iteration_of(folder: Path) -> None:
    """One EM iteration over a whole store at the command's own number of components and full band."""
    import torch

    from cryomorph.config.linear import LinearConfig
    from cryomorph.latents.linear_fit import Schedule
    from cryomorph.latents.nuisance import Located, NuisancePrior, joint_em_iteration
    from cryomorph.latents.ppca import Subspace
    from cryomorph.particles.loader import ParticleLoader
    from cryomorph.particles.store import ParticleStore
    from cryomorph.physics.slicing import padded_grid
    from cryomorph.volumes.backproject import batch_size_for
    from cryomorph.volumes.masks import spherical_mask

    store = ParticleStore.open(folder)
    radius = min(store.box // 2, LinearConfig.max_radius)
    schedule = Schedule(
        radii=(radius,),
        iterations=1,
        final_iterations=1,
        mean_precision=torch.ones(store.box // 2 + 1),
        whitening=torch.ones(store.disk.size),
        mask=spherical_mask(store.box, 0.4 * store.box, 0.1 * store.box),
        nuisances=NuisancePrior(),
        seed=0,
    )
    chance = torch.Generator().manual_seed(0)
    maps = 1e-3 * torch.randn(LinearConfig.zdim + 1, *(2 * radius,) * 3, generator=chance)
    model = Subspace(padded_grid(2 * radius), maps)
    problem = schedule.problem(radius, LinearConfig.zdim)
    loader = ParticleLoader(store, batch_size_for(store.disk.count(radius)), radius=radius)
    start = time.perf_counter()
    known = Located.unknown(len(store), LinearConfig.zdim)
    disk = store.disk.within(radius)
    joint_em_iteration(loader, model, problem, disk=disk, prior=schedule.nuisances, known=known)
    seconds = time.perf_counter() - start
    print(
        f"  {len(store)} images, zdim {LinearConfig.zdim}, band {radius} ({store.disk.count(radius)} coefficients): "
        f"{seconds:.1f} s, {len(store) / seconds:.0f} images per second",
        flush=True,
    )


def main() -> None:
    """Run every step, or the one that a parent process asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="for the set, unless it is there, and the store")
    parser.add_argument("-n", "--n", type=int, default=100_000, help="particles of the store")
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--pixel-A", type=float, default=2.0)
    parser.add_argument("--distinct", type=int, default=3000, help="images simulated and repeated")
    parser.add_argument("--profiled", type=int, default=3000, help="images of the profile")
    parser.add_argument("--skip-em", action="store_true")
    parser.add_argument("--step", choices=("repeat", "profile", "em"), help=argparse.SUPPRESS)
    given = parser.parse_args()

    source, store = given.workdir / "set" / "particles.star", given.workdir / "store"
    many = source.with_name("many.star")
    if given.step == "repeat":
        return repeat_rows(source, many, given.n)
    if given.step == "profile":
        return profile(many, given.box, min(given.n, given.profiled))
    if given.step == "em":
        return em_iteration_of(store)

    given.workdir.mkdir(parents=True, exist_ok=True)
    needed = given.n * given.box**2 * 1.6 + given.distinct * given.box**2 * 4
    if shutil.disk_usage(given.workdir).free < 1.2 * needed:
        raise SystemExit(f"{given.workdir} needs {1.2 * needed / 1e9:.1f} GB")
    command, own = ("-m", "cryomorph.cli.main"), (__file__, *sys.argv[1:], "--step")
    if not source.exists():
        form = ("-n", given.distinct, "--box", given.box, "--pixel-A", given.pixel_A)
        step("simulate", *command, "simulate", "uniform", "-o", source.parent, *form)
    step("repeat", *own, "repeat")
    seconds = step("prepare", *command, "prepare", many, "-o", store, "--overwrite", "--box", given.box)
    print(f"  {given.n / seconds:.0f} images per second, all steps of the command counted", flush=True)
    step("profile", *own, "profile")
    if not given.skip_em:
        step("EM iteration", *own, "em")
    return None


if __name__ == "__main__":
    main()
