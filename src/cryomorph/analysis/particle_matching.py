"""Which particle of one run is which of another: by cryoSPARC's uid or by the image's name, and by the images."""

from __future__ import annotations

import numpy as np
import torch

from cryomorph.analysis.selection_files import particle_file
from cryomorph.config.errors import InputError
from cryomorph.particles.matching import SharedParticles, match_particles
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.folder import RunFolder

FEWEST = 20
SAMPLE = 50
BAND = 16  # Fourier pixels: where images are strongest
ALIKE = 0.999  # one image in two stores: 1.0000; other particles: 0.05 to 0.2; another state in the same noise: 0.993
EXTENT = 1e-3


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
    best = match_particles(*files, enough=FEWEST)
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
