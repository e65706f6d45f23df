"""Which rows of two particle files are the same particles: by cryoSPARC's uid, else by the name of the image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import pandas as pd
from jaxtyping import Int64

from cryomorph.particles.subset import ParticleFile


@dataclass(frozen=True)
class SharedParticles:
    """Particles that two files share: row `a[i]` of one is row `b[i]` of the other, `a` ascending.

    `by` is what they were recognised by.
    """

    a: Int64[np.ndarray, " n"]
    b: Int64[np.ndarray, " n"]
    by: str

    def __len__(self) -> int:
        return len(self.a)


def match_particles(a: ParticleFile, b: ParticleFile, *, enough: int) -> SharedParticles:
    """Match the particles of two files by the most reliable identifier that both have.

    Args:
        enough: a less reliable identifier is tried only if the better ones match fewer particles than this.

    Returns:
        The first match of at least `enough` particles, or else the largest.
    """
    tried = []
    for by, names_a, names_b in _identifiers(a, b):
        tried.append(_match(by, names_a, names_b))
        if len(tried[-1]) >= enough:
            return tried[-1]
    return max(tried, key=len)


def _identifiers(a: ParticleFile, b: ParticleFile) -> Iterator[tuple[str, pd.Index, pd.Index]]:
    """Identifiers of the particles of both files, the most reliable first."""
    uid_a, uid_b = a.uid(), b.uid()
    if uid_a is not None and uid_b is not None:
        yield "uid", pd.Index(uid_a), pd.Index(uid_b)
    names = [file.image_names() for file in (a, b)]
    yield "image name", pd.Index(names[0]), pd.Index(names[1])
    # the folder may have moved, or the programs may write it relative to different folders
    short = [[f"{n}@{PurePath(path).name}" for n, _, path in (name.partition("@") for name in each)] for each in names]
    yield "image name without its folder", pd.Index(short[0]), pd.Index(short[1])


def _match(by: str, a: pd.Index, b: pd.Index) -> SharedParticles:
    """Rows with the same name; a name that a file has twice is ambiguous and is left out."""
    once_a, once_b = (names[~names.duplicated(keep=False)] for names in (a, b))
    both = once_a[once_a.isin(once_b)]
    return SharedParticles(a.get_indexer_for(both).astype(np.int64), b.get_indexer_for(both).astype(np.int64), by)
