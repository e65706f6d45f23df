"""Reproducibility of two runs on the same particles: their clusters, neighbourhoods, coordinates and maps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

from cryomorph.analysis.latent import KMeansResult, check_latent, kmeans_on_data
from cryomorph.analysis.particle_columns import STATES, read_labels
from cryomorph.analysis.particle_matching import SharedParticles, shared_particles
from cryomorph.config.compare import CompareConfig
from cryomorph.config.console import track, warn
from cryomorph.config.errors import InputError
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.provenance import write_json
from cryomorph.volumes.fsc import fsc, resolution_A
from cryomorph.volumes.masks import auto_mask

MOST = 50_000  # of more particles a random 50,000 speak for all, where neighbours are compared
ASKED = 1_000  # particles whose neighbours are compared
SHARES = (0.003, 0.01, 0.03, 0.1)  # size of a neighbourhood, as a share of the particles
REGRESSION = 50
CHUNK = 5_000_000  # distances held at a time
TURNED_DEG = 2.0
SAME = 1e-3  # of a latent's spread


@dataclass(frozen=True)
class LabelAgreement:
    """How two labellings of the same particles agree.

    `table` (labels of A, labels of B) counts particles: matched labels (Kuhn 1955, the Hungarian method) are on its
    diagonal, those without a partner come last. `agreement` is the share on the diagonal, `chance` what it would be if
    the labellings knew nothing of each other. ARI: Hubert and Arabie 1985. NMI: by the arithmetic mean of entropies.
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
    """For neighbourhoods of several sizes: the share of a particle's neighbours in A that are its neighbours in B too.

    `recall` is that share's mean, `jaccard` that of intersection over union, `chance` the recall of random neighbours.
    """

    size: Int64[np.ndarray, " s"]
    recall: Float[np.ndarray, " s"]
    jaccard: Float[np.ndarray, " s"]
    chance: Float[np.ndarray, " s"]


@dataclass(frozen=True)
class MapAgreement:
    """Maps of both runs at the same particles, `particle_a` and `particle_b`, decoded each by its own run.

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
        """The same of maps at different particles."""
        return resolution_A(self.others, self.pixel_A, 0.5)


@dataclass(frozen=True)
class Comparison:
    """All that `compare` found.

    `ceiling` compares A's clusters with themselves from another random start: no run can be expected to agree better.
    `r2` is the held-out R^2 of B's latent predicted from A's, and of A's from B's. `one_latent`: both runs hold the
    same latent points, such as those of one linear stage, so that their agreement says nothing.
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
        """The numbers with which its parts can be judged."""
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
    """Maps of both runs at the same particles: at how many (`matched` of `points`) the most similar ones are of the
    same particle, and mean FSCs at the same particles and at different ones."""

    matched: int
    points: int
    mean_fsc: float
    others_mean_fsc: float


@dataclass(frozen=True)
class ComparisonSummary:
    """What compare.json says: numbers of `Comparison`, with which its parts can be judged.

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


def compare_runs(run_a: RunFolder, run_b: RunFolder, config: CompareConfig) -> Comparison:
    """Compare two runs on the particles that both have.

    Raises:
        InputError: they do not share particles, one has no latent space, or more clusters or points are asked for than
            there are particles.
    """
    for run in (run_a, run_b):
        if run.latent_mean().shape[1] == 0:
            raise InputError(f"{run.path} has no latent space (--zdim 0): there is nothing to compare")
    pair = shared_particles(run_a, run_b)
    if max(config.clusters, config.points) > len(pair):
        raise InputError(
            f"--clusters {config.clusters} and --points {config.points}: the runs share {len(pair)} particles"
        )
    a, b = run_a.latent_mean()[pair.a], run_b.latent_mean()[pair.b]
    turn_deg = pose_turn_deg(run_a, run_b, pair)
    if turn_deg > TURNED_DEG:
        warn(
            f"the runs' poses differ by {turn_deg:.1f} degrees (median): their maps are not in one frame, and "
            "their FSC says less than it could"
        )
    one_latent = a.shape == b.shape and np.allclose(a, b, rtol=0, atol=SAME * a.std())
    if one_latent:
        warn("both runs hold the same latent points, from one stage that they share: their agreement says nothing")
    first, other = (kmeans_on_data(a, config.clusters, seed=seed).labels for seed in (config.seed, config.seed + 1))
    rng = np.random.default_rng(config.seed)
    few = np.sort(rng.choice(len(pair), MOST, replace=False)) if len(pair) > MOST else np.arange(len(pair))
    return Comparison(
        pair,
        (len(run_a.latent_mean()), len(run_b.latent_mean())),
        label_agreement(first, kmeans_on_data(b, config.clusters, seed=config.seed).labels),
        label_agreement(first, other),
        state_agreement(run_a, run_b, pair),
        neighbour_overlap(a[few], b[few], seed=config.seed),
        (held_out_r2(a[few], b[few], seed=config.seed), held_out_r2(b[few], a[few], seed=config.seed)),
        map_agreement((run_a, run_b), pair, kmeans_on_data(a, config.points, seed=config.seed))
        if config.points
        else None,
        turn_deg,
        one_latent,
    )


def label_agreement(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> LabelAgreement:
    """Match the labels of two labellings one to one, and measure how they agree; names of labels do not matter."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    names_a, row = np.unique(a, return_inverse=True)
    names_b, column = np.unique(b, return_inverse=True)
    shape = (len(names_a), len(names_b))
    table = np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)
    expected = np.outer(table.sum(1), table.sum(0)) / len(a) ** 2
    rows, columns = linear_sum_assignment(-table)
    order_a = np.concatenate([rows, np.setdiff1d(np.arange(shape[0]), rows)])
    order_b = np.concatenate([columns, np.setdiff1d(np.arange(shape[1]), columns)])
    by_chance = linear_sum_assignment(-expected)
    return LabelAgreement(
        table[order_a][:, order_b].astype(np.int64),
        names_a[order_a].astype(np.int64),
        names_b[order_b].astype(np.int64),
        float(table[rows, columns].sum() / len(a)),
        float(expected[by_chance].sum()),
        float(adjusted_rand_score(a, b)),
        float(normalized_mutual_info_score(a, b)),
    )


def state_agreement(run_a: RunFolder, run_b: RunFolder, pair: SharedParticles) -> LabelAgreement | None:
    """The states of both landscapes, over particles that both put into one; None where a run has no landscape."""
    labels = []
    for run, index in ((run_a, pair.a), (run_b, pair.b)):
        path = run.path / "landscape" / STATES
        if not path.is_file():
            return None
        labels.append(read_labels(path, run, made_by=f"cryomorph landscape {run.path}")[index])
    both = (labels[0] >= 0) & (labels[1] >= 0)
    return label_agreement(labels[0][both], labels[1][both]) if both.any() else None


def neighbour_overlap(
    a: Float[np.ndarray, "n p"], b: Float[np.ndarray, "n q"], *, asked: int = ASKED, seed: int = 0
) -> NeighbourOverlap:
    """Compare the neighbourhoods of random particles in two latent spaces, by Euclidean distance.

    Raises:
        InputError: a latent point is not finite.
    """
    a, b = check_latent(a), check_latent(b)
    n = len(a)
    size = np.unique([min(max(round(share * n), 1), n - 1) for share in SHARES])
    query = np.random.default_rng(seed).permutation(n)[: min(asked, n)]
    common = np.zeros((len(query), len(size)))
    step = max(1, CHUNK // n)
    for start in track(range(0, len(query), step), "comparing neighbours"):
        part = query[start : start + step]
        near = [_nearest(z, part, int(size[-1])) for z in (a, b)]
        for column, count in enumerate(size):
            member = np.zeros((len(part), n), dtype=bool)
            np.put_along_axis(member, near[0][:, :count], values=True, axis=1)
            common[start : start + step, column] = np.take_along_axis(member, near[1][:, :count], axis=1).sum(1)
    return NeighbourOverlap(
        size.astype(np.int64),
        (common / size).mean(0),
        (common / (2 * size - common)).mean(0),
        size / (n - 1),
    )


def _nearest(z: Float[np.ndarray, "n q"], query: Int64[np.ndarray, " m"], count: int) -> Int64[np.ndarray, "m count"]:
    """The particles nearest to each of those asked for, itself left out, nearest first."""
    squared = np.square(z).sum(1)
    distance = squared - 2 * z[query] @ z.T
    distance[np.arange(len(query)), query] = np.inf
    near = np.argpartition(distance, count - 1, axis=1)[:, :count]
    order = np.argsort(np.take_along_axis(distance, near, axis=1), axis=1)
    return np.take_along_axis(near, order, axis=1)


def held_out_r2(known: Float[np.ndarray, "n p"], asked: Float[np.ndarray, "n q"], *, seed: int = 0) -> float:
    """R^2 of one latent predicted from another: the mean of the 50 nearest particles of a random half, for the other.

    All coordinates are taken together, so that each counts by its variance.
    """
    from sklearn.neighbors import KNeighborsRegressor

    order = np.random.default_rng(seed).permutation(len(known))
    learn, test = order[: len(order) // 2], order[len(order) // 2 :]
    model = KNeighborsRegressor(min(REGRESSION, len(learn))).fit(known[learn], asked[learn])
    truth = asked[test].astype(np.float64)
    spread = np.square(truth - truth.mean(0)).sum()
    error = np.square(model.predict(known[test]) - truth).sum()
    return float(1 - error / spread) if spread > 0 else float("nan")


def map_agreement(runs: tuple[RunFolder, RunFolder], pair: SharedParticles, spread: KMeansResult) -> MapAgreement:
    """Decode both runs at the same particles, in the smaller of the working boxes, and correlate every two maps.

    Args:
        spread: clusters of the shared particles, whose centres' particles are compared.
    """
    chosen = spread.centre_index
    stores = [run.store() for run in runs]
    box = min(store.box for store in stores)
    pixel_A = stores[0].pixel_A * stores[0].box / box
    maps = []
    for run, index in zip(runs, (pair.a[chosen], pair.b[chosen]), strict=True):
        decode, latent = run.representation().decoder(box), torch.from_numpy(run.latent_mean()[index])
        with torch.no_grad():
            maps.append(torch.stack([decode(z) for z in track(latent, f"decoding {run.path.name}")]))
    # each scaled alike, so that neither run's units decide the mask
    both = sum(volumes.mean(0) / volumes.std() for volumes in maps)
    mask = auto_mask(torch.as_tensor(both), pixel_A, lowpass_A=max(15.0, 2.5 * pixel_A))
    table = torch.stack([fsc((volume * mask)[None], maps[1] * mask) for volume in maps[0]])
    count = len(chosen)
    same = torch.eye(count, dtype=torch.bool)
    nearest = table[..., 1:].clamp(min=0).mean(-1).argmax(1)
    return MapAgreement(
        pair.a[chosen],
        pair.b[chosen],
        table[same],
        table[~same].mean(0),
        int((nearest == torch.arange(count)).sum()),
        pixel_A,
        box,
    )


def pose_turn_deg(run_a: RunFolder, run_b: RunFolder, pair: SharedParticles) -> float:
    """Median angle between the poses that the runs use for the same particle, in degrees."""
    a = run_a.store().require_pose().rotation[torch.from_numpy(pair.a)].double()
    b = run_b.store().require_pose().rotation[torch.from_numpy(pair.b)].double()
    # from |A - B|^2 = 8 sin^2(angle / 2), exact for small angles too
    half = ((a - b).square().sum((1, 2)) / 8).sqrt().clamp(max=1)
    return float(torch.rad2deg(2 * torch.asin(half)).median())
