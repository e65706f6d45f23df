"""Lower and upper reference of a set: back-projection of all particles, and back-projection that knows all states."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from cryomorph.benchmark.map_scorer import MapScorer
from cryomorph.benchmark.truth_set import TruthSet
from cryomorph.config.console import track
from cryomorph.config.errors import InputError
from cryomorph.particles.metadata import Particles, read_particles
from cryomorph.particles.store import Batch
from cryomorph.physics.ctf import evaluate_ctf
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import Pose, shift_phase
from cryomorph.physics.slicing import padded_grid
from cryomorph.volumes.backproject import Accumulator, batch_size_for, rows_in_band
from cryomorph.volumes.masks import spherical_mask

WIDTHS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 32.0)  # of the kernel, in steps of the true coordinate
TRIED = 12  # states from which the width of the kernel is chosen
SMALLEST_SHARE = 1e-3


@dataclass(frozen=True)
class StateSums:
    """Back-projection sums of the particles of each state, on disk: a row for each state."""

    box: int
    inside: Int64[Tensor, " rows"]  # rows of the padded grid that lie within the band
    numerator: np.memmap
    weight: np.memmap

    def solve(self, share: Float[np.ndarray, " k"]) -> Float32[Tensor, "z y x"]:
        """The map of the particles of all states, each state weighted by its share.

        The regularisation is a twentieth of the mean weight. Outside the inscribed sphere of the box the map is 0, as
        in all back-projections of this package.
        """
        numerator = np.zeros(len(self.inside), np.complex64)
        weight = np.zeros(len(self.inside), np.float32)
        for state in np.flatnonzero(share > SMALLEST_SHARE):
            numerator += np.float32(share[state]) * self.numerator[state]
            weight += np.float32(share[state]) * self.weight[state]
        # without particles the map is 0
        prior = 0.05 * float(weight[weight > 0].mean()) if (weight > 0).any() else 1.0
        grid = padded_grid(self.box)
        estimate = torch.zeros(grid.rows, 1, dtype=torch.complex64)
        estimate[self.inside, 0] = torch.from_numpy(numerator / (weight + np.float32(prior)))
        return grid.to_volumes(estimate)[0] * spherical_mask(self.box, 0.9 * self.box / 2, 0.1 * self.box / 2)


def sum_states(truth: TruthSet, folder: Path) -> StateSums:
    """Back-project every state's particles apart; the sums lie in files of `folder`.

    Raises:
        InputError: the particles have no poses, or are not those of the truth.
    """
    particles = read_particles(truth.particles)
    pose = particles.pose
    if len(particles) != len(truth) or particles.box != truth.box or pose is None:
        raise InputError(
            f"{truth.particles}: {len(particles)} particles of box {particles.box}, expected {len(truth)} of box "
            f"{truth.box} with orientations, as in truth.npz; simulate the set again"
        )
    box = truth.box
    inside, _ = rows_in_band(padded_grid(box))
    shape = (truth.states, len(inside))
    numerator = np.memmap(folder / "numerator", dtype=np.complex64, mode="w+", shape=shape)
    weight = np.memmap(folder / "weight", dtype=np.float32, mode="w+", shape=shape)
    for state in track(range(truth.states), "back-projecting the true states"):
        sums = Accumulator.zeros(box)
        for batch in _batches(particles, pose, np.flatnonzero(truth.label == state)):
            sums.add(batch)
        folded = sums.folded()
        numerator[state] = folded.numerator[inside, 0].numpy()
        weight[state] = folded.weight[inside, 0].numpy()
    return StateSums(box, inside, numerator, weight)


def _batches(particles: Particles, pose: Pose, index: Int64[np.ndarray, " m"]) -> Iterator[Batch]:
    """Particles as centred Fourier coefficients; simulated noise is white and needs no weighting."""
    disk = fourier_disk(particles.box)
    size = batch_size_for(disk.size)
    frequency = disk.frequency / disk.box
    for start in range(0, len(index), size):
        rows = torch.from_numpy(index[start : start + size])
        image = disk.from_images(torch.from_numpy(particles.read(rows.numpy())))
        image = image * shift_phase(frequency, pose.shift_A[rows].float() / particles.pixel_A)
        ctf = torch.ones(len(rows), disk.size)
        if particles.ctf is not None:
            ctf = evaluate_ctf(particles.ctf[rows], frequency / particles.pixel_A)
        yield Batch(rows, image, ctf.float(), pose.rotation[rows].float())


@dataclass(frozen=True)
class Ceiling:
    """Scores of the consensus and of the oracle, and the width of the oracle's kernel for each, in coordinate steps."""

    consensus: dict[str, float]
    oracle: dict[str, float]
    width: dict[str, float]


def ceiling(scorer: MapScorer, count: Int64[np.ndarray, " k"]) -> Ceiling:
    """Score the back-projection of all particles, and back-projections that know the state of every particle.

    The oracle averages over a Gaussian kernel in the true coordinate, whose width is the one of `WIDTHS` that is best
    for each score; discrete classes are not averaged. Sums are kept in a temporary folder (TMPDIR).

    Args:
        count: number of picked particles in each state.
    """
    truth = scorer.truth
    states = np.flatnonzero(count).tolist()
    with tempfile.TemporaryDirectory(prefix="cryomorph-oracle-") as folder:
        sums = sum_states(truth, Path(folder))
        everything = sums.solve(np.ones(truth.states))
        consensus = scorer.mean(((state, everything) for state in states), count)

        def oracle_at(width: float, asked: list[int]) -> dict[str, float]:
            return scorer.mean(((state, sums.solve(kernel(truth, state, width))) for state in asked), count)

        if truth.discrete:
            return Ceiling(consensus, oracle_at(0.0, states), dict.fromkeys(consensus, 0.0))
        spread = np.unique(np.linspace(0, len(states) - 1, TRIED).round().astype(int))
        tried = {
            width: oracle_at(width, [states[i] for i in spread])
            for width in track(WIDTHS, "choosing the oracle's kernel")
        }
        best = {name: max(WIDTHS, key=lambda width, name=name: tried[width][name]) for name in consensus}  # type: ignore[misc]
        chosen = {width: oracle_at(width, states) for width in track(sorted(set(best.values())), "the oracle's maps")}
    return Ceiling(consensus, {name: chosen[best[name]][name] for name in consensus}, best)


def kernel(truth: TruthSet, state: int, width: float) -> Float[np.ndarray, " k"]:
    """Weight of the particles of each state for one state: a Gaussian of `width` steps of the true coordinate."""
    distance = np.linalg.norm(truth.state_coord - truth.state_coord[state], axis=1)
    # a state without particles takes those of the nearest state that has some
    empty = np.bincount(truth.label, minlength=truth.states) == 0
    if width == 0:
        nearest = np.where(empty, np.inf, distance)
        return np.isclose(nearest, nearest.min()).astype(np.float64)
    return np.exp(-0.5 * (distance / (width * coordinate_step(truth))) ** 2)


def coordinate_step(truth: TruthSet) -> float:
    """Median distance between neighbouring states in the true coordinate."""
    distance = np.linalg.norm(truth.state_coord[:, None] - truth.state_coord[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return float(np.median(distance.min(axis=1)))
