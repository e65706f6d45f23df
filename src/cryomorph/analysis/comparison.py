"""What a comparison of two runs found, kept as compare.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from cryomorph.analysis.particle_matching import SharedParticles
from cryomorph.config.errors import InputError
from cryomorph.io.json_file import write_json
from cryomorph.volumes.fsc import resolution_A


@dataclass(frozen=True)
class LabelAgreement:
    """How two labellings of the same particles agree.

    `table` (labels of A, labels of B) counts particles: matched labels (Kuhn 1955, the Hungarian method) are on its
    diagonal, those without a partner come last. `agreement` is the share on the diagonal, `chance` its expectation for
    independent labellings. ARI: Hubert and Arabie 1985. NMI: by the arithmetic mean of entropies.
    """

    table: Int64[np.ndarray, "ka kb"]
    rows: Int64[np.ndarray, " ka"]
    columns: Int64[np.ndarray, " kb"]
    agreement: float
    chance: float
    ari: float
    nmi: float


@dataclass(frozen=True)
class NeighbourOverlap:
    """For neighbourhoods of several sizes, the share of a particle's neighbours in A that are also its neighbours in B.

    `recall` is that share's mean, `jaccard` that of intersection over union, `chance` the recall of random neighbours.
    """

    size: Int64[np.ndarray, " s"]
    recall: Float[np.ndarray, " s"]
    jaccard: Float[np.ndarray, " s"]
    chance: Float[np.ndarray, " s"]


@dataclass(frozen=True)
class MapAgreement:
    """Maps of both runs at the same particles, `particle_a` and `particle_b`, each decoded by its own run.

    `curves` (points, shells) are FSCs inside a mask around both; `others` (shells) the mean FSC of maps at different
    particles; `matched` counts points at which the other run's most similar map (largest area under the FSC) is the one
    at the same particle.
    """

    particle_a: Int64[np.ndarray, " p"]
    particle_b: Int64[np.ndarray, " p"]
    curves: Float32[Tensor, "p shells"]
    others: Float32[Tensor, " shells"]
    matched: int
    pixel_A: float
    box: int

    @property
    def resolution_05_A(self) -> list[float]:
        """Resolution at FSC 0.5 of each pair."""
        return [resolution_A(curve, self.pixel_A, 0.5) for curve in self.curves]

    @property
    def mean_fsc(self) -> tuple[float, float]:
        """Mean FSC over shells of maps at the same particles, and at different ones."""
        return float(self.curves[:, 1:].mean()), float(self.others[1:].mean())

    @property
    def others_05_A(self) -> float:
        """Resolution at FSC 0.5 of maps at different particles."""
        return resolution_A(self.others, self.pixel_A, 0.5)


@dataclass(frozen=True)
class Comparison:
    """All that `compare` found.

    `ceiling` compares the clusters of A from two random starts: no other run can be expected to agree better.
    `r2` is the held-out R^2 of B's latent predicted from A's, and of A's from B's. `one_latent`: both runs have the
    same latent points, such as those of one linear stage, so that their agreement means nothing.
    """

    shared: SharedParticles
    counts: tuple[int, int]
    clusters: LabelAgreement
    ceiling: LabelAgreement
    states: LabelAgreement | None
    overlap: NeighbourOverlap
    r2: tuple[float, float]
    maps: MapAgreement | None
    turn_deg: float
    one_latent: bool

    def figures(self) -> dict[str, Any]:
        """The numbers as JSON values."""

        def labels(found: LabelAgreement) -> dict[str, float | int]:
            return {
                "labels_a": found.table.shape[0],
                "labels_b": found.table.shape[1],
                "agreement": found.agreement,
                "chance": found.chance,
                "ari": found.ari,
                "nmi": found.nmi,
            }

        figures: dict[str, Any] = {
            "particles_a": self.counts[0],
            "particles_b": self.counts[1],
            "shared": len(self.shared),
            "matched_by": self.shared.by,
            "kmeans": labels(self.clusters),
            "kmeans_same_run_other_seed": labels(self.ceiling),
            "neighbours": {
                name: getattr(self.overlap, name).tolist() for name in ("size", "recall", "jaccard", "chance")
            },
            "latent_r2": {"b_from_a": self.r2[0], "a_from_b": self.r2[1]},
            "pose_turn_deg": self.turn_deg,
            "same_latent_points": self.one_latent,
        }
        if self.states is not None:
            figures["states"] = labels(self.states)
        if self.maps is not None:
            figures["maps"] = {
                "particles_a": self.maps.particle_a.tolist(),
                "particles_b": self.maps.particle_b.tolist(),
                "resolution_05_A": self.maps.resolution_05_A,
                "others_resolution_05_A": self.maps.others_05_A,
                "mean_fsc": self.maps.mean_fsc[0],
                "others_mean_fsc": self.maps.mean_fsc[1],
                "nearest_is_the_same_particle": self.maps.matched,
            }
        return figures

    @property
    def summary(self) -> ComparisonSummary:
        """The numbers by which it is judged."""
        maps = self.maps
        return ComparisonSummary(
            self.counts,
            self.r2,
            self.clusters.agreement,
            self.ceiling.agreement,
            None if maps is None else MapAgreementSummary(maps.matched, len(maps.curves), *maps.mean_fsc),
            self.turn_deg,
            self.one_latent,
        )

    def write(self, folder: Path) -> None:
        """Write compare.json, which `ComparisonSummary` reads."""
        write_json(folder / ComparisonSummary.FILE, self.figures())


@dataclass(frozen=True)
class MapAgreementSummary:
    """Maps of both runs at the same particles.

    `matched` of the `points` are those whose most similar map of the other run is at the same particle. Mean FSCs are
    of maps at the same particle, and of those at different ones.
    """

    matched: int
    points: int
    mean_fsc: float
    others_mean_fsc: float


@dataclass(frozen=True)
class ComparisonSummary:
    """The numbers of a comparison by which it is judged, as compare.json has them.

    `clusters` and `ceiling` are shares of the particles in matched clusters.
    """

    counts: tuple[int, int]
    r2: tuple[float, float]
    clusters: float
    ceiling: float
    maps: MapAgreementSummary | None
    turn_deg: float
    same_points: bool
    FILE: ClassVar[str] = "compare.json"

    @classmethod
    def read(cls, folder: Path) -> ComparisonSummary:
        """What a comparison left in its folder.

        Raises:
            InputError: the file is missing or damaged.
        """
        path = folder / cls.FILE
        try:
            facts = json.loads(path.read_text())
            maps = facts.get("maps")
            return cls(
                (int(facts["particles_a"]), int(facts["particles_b"])),
                (float(facts["latent_r2"]["b_from_a"]), float(facts["latent_r2"]["a_from_b"])),
                float(facts["kmeans"]["agreement"]),
                float(facts["kmeans_same_run_other_seed"]["agreement"]),
                None
                if maps is None
                else MapAgreementSummary(
                    int(maps["nearest_is_the_same_particle"]),
                    len(maps["particles_a"]),
                    float(maps["mean_fsc"]),
                    float(maps["others_mean_fsc"]),
                ),
                float(facts["pose_turn_deg"]),
                bool(facts["same_latent_points"]),
            )
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error})") from None
