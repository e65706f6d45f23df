"""Reproducibility of two runs on the same particles: their clusters, neighbourhoods, coordinates and maps."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int

from cryomorph.analysis.comparison import Comparison, LabelAgreement, MapAgreement, NeighbourOverlap
from cryomorph.analysis.latent import KMeansResult, check_latent, kmeans_on_data
from cryomorph.analysis.nearest import nearest_others
from cryomorph.analysis.particle_matching import shared_particles
from cryomorph.analysis.particle_tables import LandscapeTables
from cryomorph.config.compare import CompareConfig
from cryomorph.config.console import track, warn
from cryomorph.config.errors import InputError
from cryomorph.latents.held_out import held_out_r2
from cryomorph.particles.matching import SharedParticles
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.fsc import fsc
from cryomorph.volumes.masks import fsc_mask

MOST = 50_000  # of more particles a random 50,000 speak for all, where neighbours are compared
ASKED = 1_000  # particles whose neighbours are compared
SHARES = (0.003, 0.01, 0.03, 0.1)  # size of a neighbourhood, as a share of the particles
CHUNK = 5_000_000  # particles times particles that are compared at a time
TURNED_DEG = 2.0
SAME = 1e-3  # of a latent's spread


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
            f"the runs' poses differ by {turn_deg:.1f} degrees (median): their maps are not in the same "
            "orientation, which lowers their FSC"
        )
    one_latent = a.shape == b.shape and np.allclose(a, b, rtol=0, atol=SAME * a.std())
    if one_latent:
        warn("both runs have the same latent points, from a stage that they share: their agreement means nothing")
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
        tables = LandscapeTables.of(run)
        if not (tables.folder / tables.STATES).is_file():
            return None
        labels.append(tables.states()[index])
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
    near_a, near_b = (nearest_others(z, int(size[-1]), particles=query)[1] for z in (a, b))
    step = max(1, CHUNK // n)
    for start in track(range(0, len(query), step), "comparing neighbours"):
        part_a, part_b = near_a[start : start + step], near_b[start : start + step]
        for column, count in enumerate(size):
            member = np.zeros((len(part_a), n), dtype=bool)
            np.put_along_axis(member, part_a[:, :count], values=True, axis=1)
            common[start : start + step, column] = np.take_along_axis(member, part_b[:, :count], axis=1).sum(1)
    return NeighbourOverlap(
        size.astype(np.int64),
        (common / size).mean(0),
        (common / (2 * size - common)).mean(0),
        size / (n - 1),
    )


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
    mask = fsc_mask(torch.as_tensor(both), pixel_A)
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
