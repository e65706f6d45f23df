"""Which particle of one run is which of another: by cryoSPARC's uid or by the image's name, and by the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64

from cryomorph.analysis.selection_files import particle_file
from cryomorph.config.errors import InputError
from cryomorph.particles.store import ParticleStore
from cryomorph.particles.subset import ParticleFile
from cryomorph.runs.folder import RunFolder

FEWEST = 20
SAMPLE = 50
BAND = 16  # Fourier pixels: where images are strongest
ALIKE = 0.999  # one image in two stores: 1.0000; other particles: 0.05 to 0.2; another state in the same noise: 0.993
EXTENT = 1e-3


@dataclass(frozen=True)
class SharedParticles:
    """Particles that two runs share: the i-th is particle `a[i]` of one and `b[i]` of the other, `a` ascending.

    `by` is what they were recognised by.
    """

    a: Int64[np.ndarray, " n"]
    b: Int64[np.ndarray, " n"]
    by: str

    def __len__(self) -> int:
        return len(self.a)


def shared_particles(run_a: RunFolder, run_b: RunFolder) -> SharedParticles:
    """Match the particles of two runs.

    Raises:
        InputError: they share fewer than 20 particles, or particles of one name have different images.
    """
    files = particle_file(run_a), particle_file(run_b)
    stores = run_a.store(), run_b.store()
    extents = [store.box * store.pixel_A for store in stores]
    if abs(extents[0] / extents[1] - 1) > EXTENT:
        raise InputError(
            f"the images of {run_a.path} are {extents[0]:.1f} A wide and those of {run_b.path} {extents[1]:.1f} A: "
            "expected runs on the same images"
        )
    tried = [_match(by, *names) for by, names in _identities(*files)]
    # a surer way that finds some goes before a laxer one that finds more
    best = next((pair for pair in tried if len(pair) >= FEWEST), max(tried, key=len))
    if len(best) < FEWEST:
        raise InputError(
            f"{run_a.path} ({len(files[0]):,} particles of {stores[0].manifest.source}) and {run_b.path} "
            f"({len(files[1]):,} of {stores[1].manifest.source}) share {len(best)} particles: expected {FEWEST} or more"
        )
    likeness = _likeness(stores, best)
    if likeness < ALIKE:
        raise InputError(
            f"{run_a.path} and {run_b.path} name the same particles, but the images differ (correlation "
            f"{likeness:.3f}): expected runs on the same images"
        )
    return best


def _identities(a: ParticleFile, b: ParticleFile) -> list[tuple[str, tuple[pd.Index, pd.Index]]]:
    """Ways to recognise a particle, the surest first."""
    found = []
    uid_a, uid_b = a.uid(), b.uid()
    if uid_a is not None and uid_b is not None:
        found.append(("uid", (pd.Index(uid_a), pd.Index(uid_b))))
    names = [file.image_names() for file in (a, b)]
    found.append(("image name", (pd.Index(names[0]), pd.Index(names[1]))))
    # the folder may have moved, or one of the programs may name it from another place
    short = [[f"{n}@{PurePath(path).name}" for n, _, path in (name.partition("@") for name in each)] for each in names]
    found.append(("image name without its folder", (pd.Index(short[0]), pd.Index(short[1]))))
    return found


def _match(by: str, a: pd.Index, b: pd.Index) -> SharedParticles:
    """Names that both have; those that one of them has twice are left out, since they name no one particle."""
    once_a, once_b = (names[~names.duplicated(keep=False)] for names in (a, b))
    both = once_a[once_a.isin(once_b)]
    return SharedParticles(a.get_indexer_for(both).astype(np.int64), b.get_indexer_for(both).astype(np.int64), by)


def _likeness(stores: tuple[ParticleStore, ParticleStore], pair: SharedParticles) -> float:
    """Median |correlation| of some particles' images, by their low-resolution coefficients as in the file."""
    some = np.unique(np.linspace(0, len(pair) - 1, min(len(pair), SAMPLE)).astype(np.int64))
    radius = min(BAND, *(store.box // 2 for store in stores))
    images = []
    for store, index in zip(stores, (pair.a, pair.b), strict=True):
        count = store.disk.count(radius)
        read = [store.coefficients(torch.from_numpy(index[i : i + 1]), count) for i in some]
        images.append(torch.cat(read) * store.noise_amplitude[store.disk.shell[:count]])
    a, b = images
    cross = (a * b.conj()).sum(1).abs() / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-20)
    return float(cross.median())
