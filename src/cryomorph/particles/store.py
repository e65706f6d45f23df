"""The particle store: noise-normalised Fourier coefficients in one memory-mapped file, and their metadata."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Float16, Float32, Int64
from torch import Tensor

from cryomorph.config.errors import InputError
from cryomorph.config.shell import command
from cryomorph.io.npy import damaged, map_npy, read_array
from cryomorph.particles.manifest import AGAIN, COEFFICIENTS, Manifest
from cryomorph.particles.noise import NoiseModel
from cryomorph.particles.views import distinct_views, is_3d
from cryomorph.physics.ctf import Ctf, evaluate_ctf
from cryomorph.physics.disk import FourierDisk, fourier_disk
from cryomorph.physics.pose import Pose, rotation_from_rotvec, shift_phase
from cryomorph.physics.symmetry import expand_pose, point_group

LEVEL, OUTSIDE = "level.npy", "outside_power.npy"
CONTRAST = "contrast.npy"
ORTHONORMAL = 1e-2  # by which `R R^T` of a rotation may differ from the identity


@dataclass(frozen=True)
class Batch:
    """Particles as the model meets them: centred, with unit noise.

    `image` (b, m) is modelled by `ctf * slice`, with noise of variance 1 for each complex coefficient; `ctf` is the
    contrast transfer function divided by the noise amplitude. `index` counts particles of the store from 0.
    """

    index: Int64[Tensor, " b"]
    image: Complex64[Tensor, "b m"]
    ctf: Float32[Tensor, "b m"]
    rotation: Float32[Tensor, "b 3 3"]

    def __len__(self) -> int:
        return len(self.index)

    def split(self, size: int) -> Iterator[Batch]:
        """The same particles in batches of `size`, the last one with what is left."""
        for start in range(0, len(self), size):
            yield self.rows(slice(start, start + size))

    def divided(self, sizes: Sequence[int]) -> list[Batch]:
        """The same particles in batches of the sizes given."""
        ends = list(accumulate(sizes))
        return [self.rows(slice(end - size, end)) for size, end in zip(sizes, ends, strict=True)]

    def rows(self, rows: slice | Int64[Tensor, " k"]) -> Batch:
        """Some of the particles."""
        return Batch(*(getattr(self, f.name)[rows] for f in fields(self)))

    def whitened(self, factor: Float32[Tensor, " size"]) -> Batch:
        """The same particles with every coefficient of the disk multiplied by a factor, their noise's correction."""
        factor = factor[: self.image.shape[1]]
        return replace(self, image=self.image * factor, ctf=self.ctf * factor)

    def only(self, kept: Bool[Tensor, " size"]) -> Batch:
        """The same particles of which the other coefficients of the disk say nothing: image and CTF are zero there."""
        factor = kept[: self.image.shape[1]].to(self.ctf)
        return replace(self, image=self.image * factor, ctf=self.ctf * factor)

    def within(self, count: int) -> Batch:
        """The same particles with the first `count` coefficients of each image."""
        return replace(self, image=self.image[:, :count], ctf=self.ctf[:, :count])

    def at(self, kept: Bool[Tensor, " size"]) -> Batch:
        """The same particles without the other coefficients of the disk."""
        kept = kept[: self.image.shape[1]]
        return replace(self, image=self.image[:, kept], ctf=self.ctf[:, kept])

    def moved(self, offset: Float32[Tensor, "b 5"], cycles: Float32[Tensor, "m 2"]) -> Batch:
        """The same particles with their poses turned by `exp(offset[:3])` and their shifts longer by `offset[3:]`.

        Args:
            offset: a rotation vector in radians about the image's axes, then `(x, y)` in pixels.
            cycles: frequencies of the coefficients that the batch holds, in cycles per pixel.
        """
        phase = shift_phase(cycles.to(offset), offset[:, 3:])
        rotation = rotation_from_rotvec(offset[:, :3]) @ self.rotation
        return replace(self, image=self.image * phase, rotation=rotation)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


@dataclass(frozen=True)
class ParticleStore:
    """A prepared particle set, opened for reading. Raises `InputError` where the folder is no complete store."""

    folder: Path
    manifest: Manifest
    refined: Pose | None = None
    """Poses to use instead of the source's own; of all copies."""
    measured: NoiseModel | None = None
    """Noise of every image, where it is known better than when the store was made."""
    found_contrast: Float32[Tensor, " n"] | None = None
    """Amplitude of every particle relative to what the source says, where it was estimated."""
    symmetry: str = "C1"
    """Point group by which every particle of the source was expanded."""

    @classmethod
    def open(cls, folder: Path) -> ParticleStore:
        """Open and validate a store: its manifest, its format and the sizes of its files."""
        store = cls(Path(folder), Manifest.read(Path(folder)))
        store._map()
        return store

    def __len__(self) -> int:
        return self.manifest.n * self.copies

    @cached_property
    def copies(self) -> int:
        """How many particles each one of the source was made into: the order of the point group."""
        return len(point_group(self.symmetry))

    @property
    def box(self) -> int:
        """Working box in pixels."""
        return self.manifest.box

    @property
    def pixel_A(self) -> float:
        """Pixel size at the working box."""
        return self.manifest.pixel_A

    @property
    def disk(self) -> FourierDisk:
        """The Fourier disk of the working box."""
        return fourier_disk(self.manifest.box)

    def _floats(self, name: str, *shape: int) -> Float32[Tensor, ...]:
        return torch.from_numpy(read_array(self.folder / name, shape, kind="float", again=AGAIN))

    def _whole(self, name: str, below: int) -> Int64[np.ndarray, " n"]:
        """One number from 0 up for each particle of the source."""
        path = self.folder / name
        found = read_array(path, (self.manifest.n,), kind="int", again=AGAIN)
        wrong = (found < 0) | (found >= below)
        if wrong.any():
            at = int(wrong.argmax())
            raise InputError(f"{path} has {found[at]} in row {at} (0-based), expected 0 to {below - 1}: {AGAIN}")
        return found

    @cached_property
    def row(self) -> Int64[np.ndarray, " n"]:
        """Row of the coefficient file, and of the source file, that holds each particle (bad images are left out)."""
        return np.repeat(self._whole("row.npy", self.manifest.rows), self.copies)

    @cached_property
    def contrast(self) -> Float32[Tensor, " n"] | None:
        """Amplitude of each particle, where the source gave one or it was estimated: it multiplies the CTF."""
        if not (self.folder / CONTRAST).is_file():
            return self.found_contrast
        given = self._floats(CONTRAST, self.manifest.n).repeat_interleave(self.copies)
        return given if self.found_contrast is None else given * self.found_contrast

    @cached_property
    def pose(self) -> Pose | None:
        """Poses, or None where the source had none."""
        if self.refined is not None:
            return self.refined
        path = self.folder / "rotation.npy"
        if not path.is_file():
            return None
        rotation = self._floats(path.name, self.manifest.n, 3, 3)
        defect = (rotation @ rotation.mT - torch.eye(3)).abs().amax((1, 2))
        if bool((defect > ORTHONORMAL).any()):
            raise InputError(f"{path} has no rotation in row {int(defect.argmax())} (0-based): {AGAIN}")
        given = Pose(rotation, self._floats("shift_A.npy", self.manifest.n, 2))
        return given if self.copies == 1 else expand_pose(given, point_group(self.symmetry))

    @cached_property
    def ctf(self) -> Ctf | None:
        """CTF parameters, or None where the source had none (a flat transfer function)."""
        if not (self.folder / "ctf.npy").is_file():
            return None
        values = self._floats("ctf.npy", self.manifest.n, len(fields(Ctf)))
        return Ctf(*values.T.repeat_interleave(self.copies, 1))

    @cached_property
    def half(self) -> Int64[Tensor, " n"]:
        """Half set of each particle, 0 or 1: the source's own where it gave one, else drawn at random when prepared.

        All copies of a particle are of one half set, since they show the same noise.
        """
        return torch.from_numpy(self._whole("half.npy", 2)).repeat_interleave(self.copies)

    @cached_property
    def noise_amplitude(self) -> Float32[Tensor, " shells"]:
        """Noise amplitude of a coefficient in each shell (0 to `box/2`), by which the stored ones were divided."""
        found = self._floats("noise_amplitude.npy", self.box // 2 + 1)
        if not bool((found > 0).all()):
            path = self.folder / "noise_amplitude.npy"
            raise InputError(f"{path} has values that are not above 0: {AGAIN}")
        return found

    def with_pose(self, pose: Pose) -> ParticleStore:
        """The same particles with other poses."""
        return replace(self, refined=pose)

    def with_noise(self, noise: NoiseModel) -> ParticleStore:
        """The same particles with a noise of their own, which batches are divided by."""
        return replace(self, measured=noise)

    def with_contrast(self, contrast: Float32[Tensor, " n"]) -> ParticleStore:
        """The same particles with amplitudes of their own, which multiply the CTF of batches."""
        return replace(self, found_contrast=contrast)

    @cached_property
    def noise(self) -> NoiseModel | None:
        """Noise of every image: as measured, or its level when the store was made; None where that was not measured."""
        if self.measured is not None or not (self.folder / LEVEL).is_file():
            return self.measured
        level = self._floats(LEVEL, self.manifest.n).repeat_interleave(self.copies)
        if not bool((level > 0).all()):
            raise InputError(f"{self.folder / LEVEL} has values that are not above 0: {AGAIN}")
        outside = self._floats(OUTSIDE, int(self.group.max()) + 1, self.box // 2 + 1)
        if not bool((outside > 0).all()):
            raise InputError(f"{self.folder / OUTSIDE} has values that are not above 0: {AGAIN}")
        return NoiseModel(outside, level, self.group)

    def require_noise(self) -> NoiseModel:
        """The noise of every image, of level 1 where it was not measured."""
        shells, groups = self.box // 2 + 1, int(self.group.max()) + 1
        return self.noise or NoiseModel(torch.ones(groups, shells), torch.ones(len(self)), self.group)

    @cached_property
    def group(self) -> Int64[Tensor, " n"]:
        """Optics group of each particle, from 0; one group where the store does not tell."""
        if not (self.folder / "group.npy").is_file():
            return torch.zeros(len(self), dtype=torch.int64)
        return torch.from_numpy(self._whole("group.npy", self.manifest.n)).repeat_interleave(self.copies)

    def unposed(self) -> ParticleStore:
        """The same particles with identity poses: as they lie in their images."""
        return self.with_pose(Pose(torch.eye(3).repeat(len(self), 1, 1), torch.zeros(len(self), 2)))

    def expanded(self, symmetry: str) -> ParticleStore:
        """Every particle as several, one at each orientation `R S` that a point group makes equivalent.

        As `relion_particle_symmetry_expand` has them: the copies of particle 0 first, then those of particle 1, so that
        particle `i` is copy `i % copies` of the source's particle `i // copies`, copy 0 being the particle as it was.
        The images are on disk once.

        Args:
            symmetry: RELION's name of the group, see `point_group`.

        Raises:
            InputError: no such group.
            ValueError: the store is expanded already.
        """
        if self.copies > 1:
            raise ValueError(f"the store is expanded by {self.symmetry} already")
        group = point_group(symmetry)
        refined = None if self.refined is None else expand_pose(self.refined, group)
        return replace(self, symmetry=symmetry, refined=refined)

    def require_pose(self) -> Pose:
        """The poses, or an error that says what can be done without them."""
        if self.pose is None:
            raise InputError(
                f"{self.manifest.source} has no orientations (rlnAngleRot, rlnAngleTilt, rlnAnglePsi or "
                f"alignments3D/pose): give a refinement's output file, or find them with {self._find_poses}"
            )
        if self.refined is None and not self._is_3d:
            views = distinct_views(self.pose.rotation[:: self.copies])
            raise InputError(
                f"{self.manifest.source}: its {self.manifest.n} particles are seen from "
                f"{'one direction' if views == 1 else f'{views} directions'} (no tilts, or a classification in 2D): "
                f"expected a 3D alignment; find one with {self._find_poses}"
            )
        return self.pose

    @property
    def _find_poses(self) -> str:
        """The command that finds poses, to be pasted."""
        return f"`{command('cryomorph', 'abinit', self.manifest.source, '-o', 'abinit')}`"

    @cached_property
    def _is_3d(self) -> bool:
        return self.pose is not None and is_3d(self.pose.rotation[:: self.copies])

    def coefficients(self, index: Int64[Tensor, " b"], count: int | None = None) -> Complex64[Tensor, "b m"]:
        """Stored coefficients of particles, as they lie in the images: not centred, noise variance 1.

        The file is mapped again for each call, so that pages already read do not count as this process's memory.
        """
        rows = self.row[index.numpy()]
        if self.copies == 1:
            return self._read(rows, count)
        once, place = np.unique(rows, return_inverse=True)
        return self._read(once, count)[torch.from_numpy(place)]

    def _read(self, rows: Int64[np.ndarray, " b"], count: int | None) -> Complex64[Tensor, "b m"]:
        mapped = self._map()
        contiguous = len(rows) > 0 and rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all())
        chosen = slice(rows[0], rows[-1] + 1) if contiguous else rows
        values = torch.from_numpy(np.array(mapped[chosen, :count], dtype=np.float16)).float()
        if not math.isfinite(values.sum()):
            raise InputError(f"{self.folder / COEFFICIENTS} has values that are not finite: {AGAIN}")
        return torch.view_as_complex(values)

    def _map(self) -> Float16[np.ndarray, "rows size 2"]:
        path, shape = self.folder / COEFFICIENTS, (self.manifest.rows, self.disk.size, 2)
        try:
            mapped = map_npy(path)
        except (OSError, ValueError) as error:
            raise damaged(path, error, AGAIN) from error
        if mapped.shape != shape or mapped.dtype.newbyteorder("=") != np.float16:
            raise InputError(f"{path} is {mapped.dtype} {mapped.shape}, expected float16 {shape}: {AGAIN}")
        return mapped

    def batch(self, index: Int64[Tensor, " b"], count: int | None = None) -> Batch:
        """Particles ready for a model, limited to the first `count` coefficients of the disk."""
        pose = self.require_pose()[index]
        frequency = self.disk.frequency[:count] / self.box
        image = self.coefficients(index, count) * shift_phase(frequency, pose.shift_A / self.pixel_A)
        ctf = self._transfer(index, count)
        if self.noise is not None:
            whitening = self.noise.whitening(index, self.disk.shell[:count])
            image, ctf = image * whitening, ctf * whitening
        return Batch(index, image, ctf, pose.rotation)

    def transfer(self, index: Int64[Tensor, " b"], count: int | None = None) -> Float32[Tensor, "b m"]:
        """CTF of particles divided by the noise amplitude: what multiplies a slice to give a stored image."""
        found = self._transfer(index, count)
        return found if self.noise is None else found * self.noise.whitening(index, self.disk.shell[:count])

    def _transfer(self, index: Int64[Tensor, " b"], count: int | None = None) -> Float32[Tensor, "b m"]:
        inverse = (1 / self.noise_amplitude[self.disk.shell[:count]]).expand(len(index), -1)
        if self.contrast is not None:
            inverse = inverse * self.contrast[index, None]
        if self.ctf is None:
            return inverse.contiguous()
        return evaluate_ctf(self.ctf[index], self.disk.frequency[:count] / (self.box * self.pixel_A)) * inverse
