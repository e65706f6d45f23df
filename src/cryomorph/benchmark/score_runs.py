"""Scores of runs: their maps, latents and poses against the truth of the set they were trained on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.analysis.decode import decode_at
from cryomorph.analysis.neighbours import Neighbourhoods, reconstruct_near
from cryomorph.benchmark.map_scorer import MapScorer
from cryomorph.benchmark.metrics import gap_closed, latent_scores
from cryomorph.benchmark.oracle import Ceiling, ceiling
from cryomorph.benchmark.truth_set import TruthSet
from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path
from cryomorph.io.star import read_star
from cryomorph.physics.pose import Pose, rotation_distance_deg
from cryomorph.physics.pose_align import compare_poses
from cryomorph.runs.folder import RunFolder

SAME_DEG, SAME_PIXEL = 0.05, 0.01  # rounding in files and in single precision


@dataclass(frozen=True)
class Row:
    """A name and its scores."""

    name: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Benchmark:
    """The scores of a set's runs; `picked` are the particles (0-based) whose maps were compared."""

    folder: Path
    name: str
    particles: int
    states: int
    picked: list[int]
    consensus: Row
    oracle: Row
    oracle_width: dict[str, float]
    runs: list[Row]

    def write(self, path: Path) -> None:
        """Write everything as JSON; a number that is not finite becomes null."""
        rows = [self.consensus, *self.runs, self.oracle]
        content: dict[str, Any] = {
            "set": self.name,
            "folder": str(self.folder),
            "particles": self.particles,
            "states": self.states,
            "compared": self.picked,
            "oracle_width": self.oracle_width,
            "rows": [{"name": row.name, **{key: _finite(value) for key, value in row.scores.items()}} for row in rows],
        }
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def score_runs(runs: Sequence[Path], truth_folder: Path, *, count: int = 100, reconstruct: bool = True) -> Benchmark:
    """Score runs: FSC areas of maps decoded at particles, the share of the gap closed, and the latent space.

    Each run has a row for its decoder's maps and, where it has a consensus, one for maps that are reconstructed from
    the particles near each latent point (`reconstruct`). Poses other than the true ones are scored (`pose_scores`).

    `gap` is `(run - consensus) / (oracle - consensus)` of the unmasked area, `gap_moving` that of the moving part.

    Args:
        count: particles, spread over the true coordinate, whose maps are compared.

    Raises:
        InputError: a run was not trained on the set, or `count` is below one.
    """
    if count < 1:
        raise InputError(f"--pick {count}: expected at least one particle")
    truth = TruthSet.open(truth_folder)
    folders = [RunFolder.open(path) for path in runs]
    rows_of = [truth_rows(run, truth) for run in folders]  # runs of other sets are refused before the work begins
    scorer = MapScorer(truth)
    picked = truth.pick(count)
    found = ceiling(scorer, np.bincount(truth.label[picked], minlength=truth.states))
    scored = []
    for path, run, rows in zip(runs, folders, rows_of, strict=True):
        chosen = PickedParticles.of(run, rows, truth, picked=picked)
        other = latent_scores(run.latent_mean(), truth.label[rows], truth.coord[rows], discrete=truth.discrete)
        other |= pose_scores(run.store().pose, truth.pose[torch.from_numpy(rows)], truth.pixel_A)
        scored.append(
            Row(str(path), with_gaps(chosen.score(decode_at(run, chosen.z, run.store().box), scorer), found) | other)
        )
        if reconstruct and run.has_consensus:
            maps = reconstruct_near(Neighbourhoods.of(run), chosen.z, f"reconstructing {path.name}")
            scored.append(Row(f"{path}, reconstructed", with_gaps(chosen.score((m.map for m in maps), scorer), found)))
    return Benchmark(
        truth_folder,
        truth.name,
        len(truth),
        truth.states,
        picked.tolist(),
        Row("consensus", with_gaps(found.consensus, found)),
        Row("oracle", with_gaps(found.oracle, found)),
        found.width,
        scored,
    )


def with_gaps(scores: dict[str, float], reference: Ceiling) -> dict[str, float]:
    """Map scores, with the share of the gap between consensus and oracle that they close."""
    gaps = {
        gap: gap_closed(scores[area], reference.consensus[area], reference.oracle[area])
        for gap, area in (("gap", "auc"), ("gap_moving", "auc_moving"))
        if area in scores
    }
    return scores | gaps


def pose_scores(found: Pose | None, true: Pose, pixel_A: float) -> dict[str, float]:
    """Median errors of poses, aligned with the true ones; nothing where all poses are the true ones.

    Rotations in degrees and as `||R - R_true||_F^2`, shifts in Angstrom and in pixels of the set's images.
    """
    if found is None:
        return {}
    found = Pose(found.rotation.double(), found.shift_A.double())
    turned = rotation_distance_deg(found.rotation, true.rotation) > SAME_DEG
    moved = torch.linalg.vector_norm(found.shift_A - true.shift_A, dim=1) > SAME_PIXEL * pixel_A
    if not bool((turned | moved).any()):
        return {}
    summary = compare_poses(found, true).errors.summary(pixel_A)
    return {name: summary[f"{name}_median"] for name in ("rotation_deg", "frobenius", "shift_A", "shift_pixel")}


@dataclass(frozen=True)
class PickedParticles:
    """The picked particles that a run has, in ascending order of their states, and their latent points."""

    state: Int64[np.ndarray, " k"]
    z: Float32[np.ndarray, "k q"]

    @classmethod
    def of(
        cls, run: RunFolder, rows: Int64[np.ndarray, " m"], truth: TruthSet, *, picked: Int64[np.ndarray, " p"]
    ) -> PickedParticles:
        """Find the picked particles in a run.

        Args:
            rows: for each particle of the run, its number in the set.

        Raises:
            InputError: the run has none of them.
        """
        position = np.full(len(truth), -1)
        position[rows] = np.arange(len(rows))
        here = picked[position[picked] >= 0]
        if not len(here):
            raise InputError(f"{run.path}: none of the picked particles is in this run; raise --pick")
        here = here[np.argsort(truth.label[here], kind="stable")]  # masks are cached by state
        return cls(truth.label[here], run.latent_mean()[position[here]])

    def score(self, maps: Iterable[Float32[Tensor, "z y x"]], scorer: MapScorer) -> dict[str, float]:
        """Mean scores of maps, one for each of the particles, in their order."""
        once = np.ones(scorer.truth.states, dtype=np.int64)
        return scorer.mean(zip(self.state.tolist(), maps, strict=True), once)


def truth_rows(run: RunFolder, truth: TruthSet) -> Int64[np.ndarray, " m"]:
    """For each particle of a run, its number in the set, from its place in the image stack.

    Raises:
        InputError: the run has particles that are not of the set.
    """
    store = run.store()
    n = len(run.latent_mean())
    table = read_star(store.folder / store.manifest.metadata).get("particles")
    if table is None or "rlnImageName" not in table or len(table) != n:
        raise InputError(
            f"{run.path}: its particles.star does not name {n} images; it was not trained on {truth.folder}"
        )
    number = table["rlnImageName"].str.split("@").str[0].astype(np.int64).to_numpy() - 1
    stacks = set(table["rlnImageName"].str.split("@").str[-1].str.rsplit("/", n=1).str[-1])
    if stacks != {"particles.mrcs"} or number.max() >= len(truth) or len(np.unique(number)) != n:
        raise InputError(
            f"{run.path}: trained on images of {', '.join(sorted(stacks))} up to number {number.max() + 1}, expected "
            f"those of {truth.folder}, which has {len(truth)} images; give the set that the run was trained on"
        )
    return number
