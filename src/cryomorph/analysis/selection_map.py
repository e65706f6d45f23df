"""The map of a selection, back-projected from its particles and decoded by the model, and how both agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64
from torch import Tensor

from cryomorph.analysis.latent import nearest_particles
from cryomorph.analysis.split import LatentSplit, known_split
from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.particles.store import ParticleStore
from cryomorph.representations.base import Representation
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import Crossed, Reconstruction, reconstruct
from cryomorph.volumes.fsc import FscReport, half_map_fsc, resolution_A

DECODED = ("mean", "nearest")
COMPARED = (*DECODED, "consensus", "ceiling")


@dataclass(frozen=True)
class Decoded:
    """The model's maps `[z, y, x]` at a selection's mean latent point and at its particle nearest to that.

    On a curved landscape the mean of many particles may lie where none is: the nearest particle never does.
    """

    point: Float32[np.ndarray, " q"]
    particle: int
    mean: Float32[Tensor, "z y x"]
    nearest: Float32[Tensor, "z y x"]


@dataclass(frozen=True)
class Agreement:
    """FSC of a map with the back-projected one inside its mask, corrected for the mask.

    `mean_fsc` is the curve's mean over the shells in which the back-projected map has signal (its own FSC at 0.143).
    """

    curve: Float32[Tensor, " shells"]
    resolution_05_A: float
    mean_fsc: float


@dataclass(frozen=True)
class SelectionMap:
    """What the particles of a selection show, and how the model's maps compare with it.

    `agreement` has `mean` and `nearest` (the decoded maps), `consensus` (the map of all particles, what a model without
    heterogeneity would say; it shares the selection's noise, so it is flattered where the selection is large), and
    `ceiling`: what a map without error would reach, `errorless_fsc` of the half maps.
    """

    particles: tuple[int, int]
    """How many of each half set."""
    decoded: Decoded
    reconstruction: Reconstruction
    agreement: Mapping[str, Agreement]

    def __str__(self) -> str:
        mean, ceiling, consensus = (self.agreement[name] for name in ("mean", "ceiling", "consensus"))
        return (
            f"{sum(self.particles):,} particles, {self.reconstruction.fsc.resolution_0143_A:.1f} A (FSC 0.143); "
            f"decoded and back-projected agree to {mean.resolution_05_A:.1f} A (FSC 0.5), mean FSC {mean.mean_fsc:.2f} "
            f"(ceiling {ceiling.mean_fsc:.2f}, consensus {consensus.mean_fsc:.2f})"
        )

    def figures(self) -> dict[str, Any]:
        """The numbers as JSON values."""
        fsc = self.reconstruction.fsc
        return {
            "particles": sum(self.particles),
            "half_sets": list(self.particles),
            "resolution_0143_A": fsc.resolution_0143_A,
            "resolution_05_A": fsc.resolution_05_A,
            "mean_latent": self.decoded.point.tolist(),
            "nearest_particle": self.decoded.particle,
            "agreement": {
                name: {"resolution_05_A": one.resolution_05_A, "mean_fsc": one.mean_fsc}
                for name, one in self.agreement.items()
            },
        }


def decode_selection(
    run: RunFolder, index: Int64[np.ndarray, " k"], box: int, *, representation: Representation | None = None
) -> Decoded:
    """Decode at the mean latent point of particles, and at the one of them nearest to it.

    Args:
        index: particle numbers from 0.
        representation: the run's, where it is loaded already.
    """
    model = run.representation() if representation is None else representation
    latent = run.latent_mean()[index]
    point = latent.mean(axis=0, dtype=np.float64).astype(np.float32)
    member = 0 if latent.shape[1] == 0 else int(nearest_particles(latent, point[None])[0])
    with torch.no_grad():
        maps = [model.volume(torch.from_numpy(z), box) for z in (point, latent[member])]
    return Decoded(point, int(index[member]), maps[0], maps[1])


def map_selection(
    run: RunFolder,
    index: Int64[np.ndarray, " k"],
    *,
    mask: Float32[Tensor, "z y x"] | None = None,
    representation: Representation | None = None,
    split: LatentSplit | None = None,
    description: str = "back-projecting",
) -> SelectionMap:
    """Back-project particles, at the poses that the run used, and compare the model's maps with that.

    Of particles that were chosen by their latent points, those that either half of the coefficients places there give
    the other half: see `Crossed`.

    Args:
        index: particle numbers from 0, in any order.
        split: latent points by half of the coefficients, where they are loaded already.
        mask: for the FSC, of the working box; made from the map without.
        representation: the run's, where it is loaded already.

    Raises:
        InputError: a half set has none of the particles, the mask has another box, or the map is empty.
    """
    store = run.store()
    index = np.unique(index)
    if mask is not None and mask.shape[0] != store.box:
        raise InputError(f"the mask has box {mask.shape[0]}, expected the working box, {store.box}")
    halves = half_set_sizes(store, index)
    subset = chosen_twice(run, index, split=split)
    found = reconstruct(store, subset=subset, mask=mask, description=description)
    decoded = decode_selection(run, index, store.box, representation=representation)
    compared = {"mean": decoded.mean, "nearest": decoded.nearest, "consensus": run.consensus_map()}
    curves = {name: corrected_fsc(volume, found) for name, volume in compared.items()}
    curves["ceiling"] = errorless_fsc(found.fsc.best)
    return SelectionMap(
        halves, decoded, found, {name: agreement_of(curve, found.fsc) for name, curve in curves.items()}
    )


def chosen_twice(
    run: RunFolder, index: Int64[np.ndarray, " k"], *, split: LatentSplit | None = None
) -> Crossed | Int64[Tensor, " k"]:
    """The particles of a selection for back-projection: by each half of their coefficients, where it is possible.

    Args:
        split: where it is loaded already.
    """
    split = known_split(run) if split is None else split
    crossed = None if split is None else split.crossed(index)
    return torch.from_numpy(index) if crossed is None else crossed


def half_set_sizes(store: ParticleStore, index: Int64[np.ndarray, " k"]) -> tuple[int, int]:
    """How many of some particles are in each half set; `InputError` where one has none, since half maps need both."""
    second = int(store.half[torch.from_numpy(index)].sum())
    halves = (len(index) - second, second)
    if min(halves) == 0:
        raise InputError(
            f"of {len(index)} particles {halves[0]} are of one half set and {halves[1]} of the other: half maps need "
            "both, select more particles"
        )
    return halves


def corrected_fsc(volume: Float32[Tensor, "z y x"], found: Reconstruction) -> Float32[Tensor, " shells"]:
    """FSC of a map with a reconstruction inside the reconstruction's mask, corrected for it."""
    return half_map_fsc(volume, found.map, found.mask, pixel_A=found.fsc.pixel_A).best


def agreement_of(curve: Float32[Tensor, " shells"], fsc: FscReport, *, shells: int | None = None) -> Agreement:
    """What an FSC curve with a reconstruction says.

    Args:
        fsc: of the reconstruction's own half maps.
        shells: how many the map that was compared has, where it is of a smaller box: the curve ends there.
    """
    kept = curve[:shells]
    last = max(1, int(fsc.box * fsc.pixel_A / fsc.resolution_0143_A))
    at = max(resolution_A(kept, fsc.pixel_A, 0.5, box=fsc.box), fsc.box * fsc.pixel_A / len(kept))
    return Agreement(kept, at, float(kept[1 : last + 1].mean()))


def errorless_fsc(curve: Float32[Tensor, " shells"]) -> Float32[Tensor, " shells"]:
    """FSC of the sum of two half maps with a map without noise, `sqrt(2 FSC / (1 + FSC))` of the half maps' own.

    Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721: their `C_ref`.
    """
    shared = curve.clamp(0, 1)
    return (2 * shared / (1 + shared)).sqrt()


def compare_states(
    run: RunFolder, labels: Int[np.ndarray, " n"], *, mask: Float32[Tensor, "z y x"] | None = None, name: str = "state"
) -> Iterator[tuple[int, SelectionMap]]:
    """`map_selection` for each state, ascending; one is held in memory at a time.

    A state that is too small for half maps is left out with a warning.

    Args:
        labels: a state for each particle of the run; below 0 means none.
        name: what a state is called while it is worked on.

    Raises:
        InputError: there is not one label for each particle, or there are no states.
    """
    n = len(run.latent_mean())
    if labels.shape != (n,):
        raise InputError(f"labels of shape {labels.shape}: expected one for each of the run's {n} particles")
    states = np.unique(labels[labels >= 0]).tolist()
    if not states:
        raise InputError(f"all {n} labels are below 0: expected states from 0 on")
    model, split = run.representation(), LatentSplit.of(run)
    for number, state in enumerate(states):
        said = f"{name} {state} ({number + 1} of {len(states)})"
        try:
            found = map_selection(
                run, np.flatnonzero(labels == state), mask=mask, representation=model, split=split, description=said
            )
        except InputError as error:
            warn(f"{name} {state} is left out: {error}")
            continue
        yield state, found


def mean_agreement(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean FSC of each compared map over states, as `SelectionMap.figures` has them; each state counts alike."""
    return {name: float(np.mean([row["agreement"][name]["mean_fsc"] for row in rows])) for name in COMPARED}
