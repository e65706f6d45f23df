"""Making a particle store: images streamed, cropped in Fourier space, divided by the noise, written as float16."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Float16, Float32, Int64, UInt8
from torch import Tensor

from cryomorph.config.console import say, track, warn
from cryomorph.config.errors import InputError
from cryomorph.config.prepare import ImageSource
from cryomorph.io.atomic import atomic_path
from cryomorph.io.output_folder import Contents, OutputFolder
from cryomorph.particles.contrast import TRIAL_BOX, Contrast, decide_contrast
from cryomorph.particles.half_sets import half_sets
from cryomorph.particles.image_faults import VANISHING, faults, refuse_faults, vanishing
from cryomorph.particles.image_outliers import OUTLIERS, image_outliers, optics_groups, summary, write_outliers
from cryomorph.particles.image_statistics import ImageStatistics, first_copies
from cryomorph.particles.listed import listed_rows
from cryomorph.particles.manifest import COEFFICIENTS, FORMAT, MANIFEST, SOURCE_ROW, Manifest
from cryomorph.particles.metadata import Particles, read_particles, write_particles
from cryomorph.particles.noise import LEAST_LEVEL, level_of, outside_by_group
from cryomorph.particles.store import CONTRAST, LEVEL, OUTSIDE, ParticleStore
from cryomorph.particles.views import is_3d
from cryomorph.physics.disk import FourierDisk, fourier_disk
from cryomorph.physics.noise import outside_power, typical_power

DEFAULT_BOX = 128
SAMPLE = 3000
BLOCK_BYTES = 4 << 20  # of images: small enough to stay in the processor's cache (benchmarks/scale.py)
PLAN, STATE, STATISTICS = "plan.json", "state.bin", "statistics.bin"
STORE = Contents("particle store", marker=MANIFEST, whole=True)


def prepare(
    particles: Particles,
    folder: Path,
    *,
    box: int | None = None,
    skip_bad: bool = False,
    invert: Literal["auto", "yes", "no"] = "auto",
    overwrite: bool = False,
    seed: int = 0,
    workers: int | None = None,
) -> ParticleStore:
    """Make the store of a particle set in `folder`; go on with one that was interrupted, which is in `<folder>.part`.

    Memory is bounded by a few blocks of `BLOCK_BYTES` for each worker, whatever the number of particles.

    Raises:
        InputError: an odd or too large box, bad images without `skip_bad`, no space, or a folder that is in use.
    """
    box = working_box(particles.box, box)
    read = (particles.source, *dict.fromkeys(stack.parent for stack in particles.stacks))
    with OutputFolder(folder, STORE, inputs=read, overwrite=overwrite, keep=True) as output:
        disk = fourier_disk(box)
        plan = _plan(particles, box, invert=invert, seed=seed)
        progress = _Progress.start(output.scratch, plan, len(particles), disk.size)
        noise, outside, contrast = _look_at_sample(particles, disk, invert)
        factor = (-1.0 if contrast.inverted else 1.0) / noise
        fault = _write_coefficients(particles, disk, progress, factor, outside=outside, workers=workers)
        records = progress.statistics.read()
        fault[vanishing(records, fault == 0)] = VANISHING
        refuse_faults(particles, fault, skip_bad=skip_bad)
        bad = fault > 0
        found = image_outliers(records, optics_groups(particles), ~bad)
        write_outliers(progress.folder / OUTLIERS, found, particles, kept=np.flatnonzero(~bad))
        half = half_sets(particles.select(np.flatnonzero(~bad)), first_copies(records[~bad]), seed=seed)
        _write_metadata(particles, ~bad, progress.folder, noise, half)
        level = progress.level[~bad]
        np.save(progress.folder / LEVEL, level.clip(min=LEAST_LEVEL * max(1.0, float(np.median(level)))))
        np.save(progress.folder / OUTSIDE, outside[np.unique(optics_groups(particles)[~bad])].numpy())
        _finish(particles, progress, contrast, bad, box)
        output.commit()
    said = summary(found, len(particles), folder / OUTLIERS)
    if said is not None:
        warn(said)
    return ParticleStore.open(folder.absolute())


def prepare_source(
    source: Path, folder: Path, images: ImageSource, *, overwrite: bool = False, seed: int = 0
) -> ParticleStore:
    """Make the store of a particle file, as its options say: `read_particles`, then `prepare`."""
    particles = read_particles(
        source,
        datadir=images.datadir,
        strip_prefix=images.strip_prefix,
        pixel_A=images.pixel_A,
        passthrough=images.passthrough,
        poses=images.poses,
        ctf=images.ctf,
        index=None if images.index is None else listed_rows(images.index, source),
    )
    return prepare(
        particles,
        folder,
        box=images.box,
        skip_bad=images.skip_bad,
        invert=images.invert,
        overwrite=overwrite,
        seed=seed,
    )


def working_box(given: int, asked: int | None) -> int:
    """The working box: what was asked for, or the images' own up to 128; refused where odd or larger than they are."""
    box = min(given, DEFAULT_BOX) if asked is None else asked
    if box % 2 or not 4 <= box <= given:
        raise InputError(f"--box {box}: expected an even number from 4 to the images' own box, {given}")
    return box


@dataclass
class _Progress:
    """A store being made: which blocks are on disk. Kept in `<store>.part`, so that a killed run goes on."""

    folder: Path
    done: Bool[np.ndarray, " blocks"]
    fault: UInt8[np.ndarray, " n"]  # of each image, see `FAULTS`
    level: Float32[np.ndarray, " n"]
    block: int
    header: int
    statistics: ImageStatistics

    @classmethod
    def start(cls, folder: Path, plan: dict[str, object], n: int, size: int) -> _Progress:
        block = max(1, BLOCK_BYTES // (4 * int(str(plan["source_box"])) ** 2))
        blocks = -(-n // block)
        state = cls._interrupted(folder, plan)
        if state is not None and len(state) == blocks + 5 * n:
            header = _header_length(folder / COEFFICIENTS)
            done, fault = state[:blocks].astype(bool), state[blocks : blocks + n]
            level = state[blocks + n :].view(np.float32).copy()
            say(f"going on with {folder}: {done.sum()} of {blocks} blocks are there")
            return cls(folder, done, fault, level, block, header, ImageStatistics(folder / STATISTICS))
        shutil.rmtree(folder)
        folder.mkdir()
        header = _reserve(folder / COEFFICIENTS, n, size)
        np.zeros(blocks + 5 * n, dtype=np.uint8).tofile(folder / STATE)
        with atomic_path(folder / PLAN) as path:
            path.write_text(json.dumps(plan))
        statistics = ImageStatistics.reserve(folder / STATISTICS, n)
        done, fault, level = np.zeros(blocks, dtype=bool), np.zeros(n, dtype=np.uint8), np.zeros(n, dtype=np.float32)
        return cls(folder, done, fault, level, block, header, statistics)

    @staticmethod
    def _interrupted(folder: Path, plan: dict[str, object]) -> UInt8[np.ndarray, " state"] | None:
        """The state of a store that was being made by the same plan; None where there is none, or it is damaged."""
        try:
            if json.loads((folder / PLAN).read_text()) != plan:
                return None
            _header_length(folder / COEFFICIENTS)
            ImageStatistics(folder / STATISTICS).read()
            return np.fromfile(folder / STATE, dtype=np.uint8)
        except (OSError, ValueError):
            return None

    def record(
        self, number: int, rows: slice, fault: UInt8[np.ndarray, " b"], level: Float32[np.ndarray, " b"]
    ) -> None:
        """Note a block that is on disk, after its coefficients: what is wrong with images, and the noise of each."""
        self.fault[rows], self.level[rows] = fault, level
        self.done[number] = True
        with (self.folder / STATE).open("r+b") as file:
            file.seek(len(self.done) + rows.start)
            file.write(fault.tobytes())
            file.seek(len(self.done) + len(self.fault) + 4 * rows.start)
            file.write(level.tobytes())
            file.seek(number)
            file.write(b"\x01")


def _header_length(path: Path) -> int:
    """Where the coefficients begin in their file."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()


def _reserve(path: Path, n: int, size: int) -> int:
    """Write the coefficient file's header and claim its space, so that a full disk is known now, not in an hour."""
    needed = n * size * 4
    try:
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": (n, size, 2)})
            header = file.tell()
            os.posix_fallocate(file.fileno(), 0, header + needed)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free
        raise InputError(
            f"{path.parent} needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free ({error.strerror}): "
            "make room, choose a smaller --box, or another place"
        ) from error
    return header


def _plan(particles: Particles, box: int, *, invert: str, seed: int) -> dict[str, object]:
    """What makes two runs the same, so that the second may go on with the first's blocks."""
    files = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in particles.stacks]
    rows = hashlib.sha256(particles.stack_of.tobytes() + particles.image_of.tobytes()).hexdigest()
    optics = hashlib.sha256(str(particles.blob_sign).encode())  # with the poses, what the contrast is decided from
    for part in (particles.pose, particles.ctf):
        if part is not None:
            for field in part.__dataclass_fields__:
                optics.update(getattr(part, field).numpy().tobytes())
    return {
        "format": FORMAT,
        "box": box,
        "source_box": particles.box,
        "pixel_A": particles.pixel_A,
        "files": files,
        "rows": rows,
        "optics": optics.hexdigest(),
        "invert": invert,
        "seed": seed,
    }


def _look_at_sample(
    particles: Particles, disk: FourierDisk, invert: str
) -> tuple[Float32[Tensor, " shells"], Float32[Tensor, "groups shells"], Contrast]:
    """Noise amplitude by shell, what `outside_by_group` says, and the contrast, of up to `SAMPLE` images of the set."""
    n = len(particles)
    spread = np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(np.int64))
    squares = 0.0
    trial = fourier_disk(min(disk.box, TRIAL_BOX)).size  # coefficients that the contrast is decided from
    power: list[Tensor] = []
    kept: list[Tensor] = []
    chosen: list[np.ndarray] = []
    size = max(1, BLOCK_BYTES // (4 * particles.box**2))
    for part in np.array_split(spread, -(-len(spread) // size)):
        images = torch.from_numpy(particles.read(part))
        good = torch.from_numpy(faults(images) == 0)
        if not good.any():
            continue
        power.append(outside_power(images[good], disk))
        coefficients = disk.from_images(images[good])
        squares += float(coefficients.abs().square().mean(1).double().sum())
        kept.append(coefficients[:, :trial].clone())
        chosen.append(part[good.numpy()])
    if not chosen:
        raise InputError(
            f"{particles.source}: each of {len(spread)} images looked at holds NaN, huge values or no variance: check "
            "the stacks"
        )
    index = torch.from_numpy(np.concatenate(chosen))
    # a noiseless set has no noise to divide by: its own root mean square keeps float16 in range
    noise = typical_power(torch.cat(power)).sqrt()
    rms = (squares / len(index)) ** 0.5
    if noise.mean() < 1e-3 * rms:
        warn("the images' corners hold no noise: they are divided by their own root mean square instead")
        noise = torch.full_like(noise, rms)
    noise = noise.clamp(min=1e-3 * float(noise.max()))
    group = torch.from_numpy(optics_groups(particles))
    outside = outside_by_group(torch.cat(power), group[index], int(group.max()) + 1, amplitude=noise)
    outside = outside.clamp(min=1e-6 * float(outside.max()))
    if invert != "auto":
        return noise, outside, Contrast(invert == "yes", f"--invert {invert}")
    contrast = decide_contrast(
        torch.cat(kept) / noise[disk.shell[:trial]],
        disk,
        pixel_A=particles.pixel_A * particles.box / disk.box,
        pose=None if particles.pose is None or not is_3d(particles.pose.rotation) else particles.pose[index],
        ctf=None if particles.ctf is None else particles.ctf[index],
        blob_sign=particles.blob_sign,
    )
    return noise, outside, contrast


def _write_coefficients(
    particles: Particles,
    disk: FourierDisk,
    progress: _Progress,
    factor: Float32[Tensor, " shells"],
    *,
    outside: Float32[Tensor, "groups shells"],
    workers: int | None,
) -> UInt8[np.ndarray, " n"]:
    """Write every block that is not on disk yet; return what is wrong with images (the rows of those stay zero)."""
    scale, group = factor[disk.shell], torch.from_numpy(optics_groups(particles))
    descriptor = os.open(progress.folder / COEFFICIENTS, os.O_WRONLY)

    def one(number: int) -> tuple[int, slice, UInt8[np.ndarray, " b"], Float32[np.ndarray, " b"]]:
        rows = slice(number * progress.block, min(len(particles), (number + 1) * progress.block))
        images = torch.from_numpy(particles.read(np.arange(rows.start, rows.stop)))
        fault = faults(images)
        images[torch.from_numpy(fault > 0)] = 0
        progress.statistics.put(rows.start, images)
        coefficients = disk.from_images(images) * scale
        _write_all(descriptor, _as_stored(coefficients).numpy().data, progress.header + rows.start * disk.size * 4)
        return number, rows, fault, level_of(coefficients, disk, outside[group[rows]]).numpy()

    todo = np.flatnonzero(~progress.done).tolist()
    try:
        finished = _in_parallel(one, todo, workers or os.cpu_count() or 1)
        for number, rows, fault, level in track(finished, f"preparing {len(particles)} images", total=len(todo)):
            progress.record(number, rows, fault, level)
    finally:
        os.close(descriptor)
    return progress.fault


def _as_stored(coefficients: Complex64[Tensor, "b size"]) -> Float16[Tensor, "b size two"]:
    """Scaled coefficients as the file holds them; what float16 cannot hold becomes the most that it can."""
    return torch.view_as_real(coefficients).clamp(-65504, 65504).half()


def _write_all(descriptor: int, content: memoryview, offset: int) -> None:
    """Write at an offset; one call may write less than it was given, where a disk runs full."""
    rest = content.cast("B")
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _in_parallel(work, items: list[int], workers: int) -> Iterator:  # type: ignore[no-untyped-def]
    """Results in order, with at most two blocks for each worker in flight: memory stays bounded."""
    with ThreadPoolExecutor(workers, thread_name_prefix="prepare") as pool:
        waiting: list[Future] = []
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _write_metadata(
    particles: Particles,
    good: Bool[np.ndarray, " n"],
    folder: Path,
    noise: Float32[Tensor, " shells"],
    half: Int64[np.ndarray, " k"],
) -> None:
    row: Int64[np.ndarray, " k"] = np.flatnonzero(good)
    kept = particles.select(row)
    np.save(folder / "row.npy", row)
    np.save(folder / "noise_amplitude.npy", noise.numpy())
    np.save(folder / "half.npy", half)
    if not np.array_equal(kept.row, row):
        np.save(folder / SOURCE_ROW, kept.row)
    if kept.contrast is not None:
        np.save(folder / CONTRAST, kept.contrast)
    if kept.pose is not None:
        np.save(folder / "rotation.npy", kept.pose.rotation.numpy())
        np.save(folder / "shift_A.npy", kept.pose.shift_A.numpy())
    np.save(folder / "group.npy", optics_groups(kept))
    if kept.ctf is not None:
        np.save(folder / "ctf.npy", np.stack([getattr(kept.ctf, f).numpy() for f in kept.ctf.__dataclass_fields__], 1))
    write_particles(kept, folder / _metadata_name(particles))


def _metadata_name(particles: Particles) -> str:
    return "particles.cs" if particles.source.suffix == ".cs" else "particles.star"


def _finish(particles: Particles, progress: _Progress, contrast: Contrast, bad: np.ndarray, box: int) -> None:
    """The manifest, last: from here on the folder is a store."""
    manifest = Manifest(
        format=FORMAT,
        n=int((~bad).sum()),
        rows=len(particles),
        box=box,
        pixel_A=particles.pixel_A * particles.box / box,
        source=str(particles.source),
        source_box=particles.box,
        source_pixel_A=particles.pixel_A,
        metadata=_metadata_name(particles),
        inverted=contrast.inverted,
        contrast_reason=contrast.reason,
        left_out=np.flatnonzero(bad).tolist(),
        ignored=list(particles.ignored),
    )
    manifest.write(progress.folder)
    for name in (PLAN, STATE, STATISTICS):
        (progress.folder / name).unlink()
