"""How well a latent space sorts particles of discrete states, and whether it knows the direction of view.

1. k-means with as many clusters as there are states: mean entropy of a cluster (base 10, OPUS-DSD's Figure 2), ARI, and
   the average resolution of the maps reconstructed from the clusters' particles: where half maps have FSC 0.143 and
   0.5, and where a cluster's map and the true map of most of its particles have 0.5. Beside them clusters that are the
   truth, and clusters drawn at random.
2. With --views: how often the projection class (12 and 48) of a held-out half of the particles is predicted from z, by
   25 neighbours and by logistic regression, beside the same with classes shuffled. Of alike particles z should say
   nothing.

python benchmarks/classes.py SET RUN [RUN ...] [--views]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from cryomorph.benchmark.metrics import cluster_entropy
from cryomorph.io.mrc import read_map
from cryomorph.particles.projection_class import projection_classes
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import reconstruct
from cryomorph.volumes.fsc import fsc, resolution_A


def clusters(run: RunFolder, count: int) -> Int64[np.ndarray, " n"]:
    """k-means of a run's latent points, as `cryomorph benchmark` has it."""
    z = run.latent_mean()
    found = KMeans(count, n_init=10, random_state=0).fit_predict((z - z.mean(0)) / z.std())
    return found.astype(np.int64)


def resolutions(
    store: ParticleStore, cluster: Int64[np.ndarray, " n"], truth: tuple[Int64[np.ndarray, " n"], list[torch.Tensor]]
) -> Float[np.ndarray, " 3"]:
    """Average over clusters, in Angstrom: half maps at 0.143 and 0.5, and 0.5 with the true map of most particles."""
    label, maps = truth
    found = []
    for number in np.unique(cluster):
        own = np.flatnonzero(cluster == number)
        made = reconstruct(store, subset=torch.from_numpy(own), description=f"cluster {number}")
        curve = fsc(made.map, maps[int(np.bincount(label[own]).argmax())])
        at = resolution_A(curve, store.pixel_A, 0.5, box=store.box)
        found.append((made.fsc.resolution_0143_A, made.fsc.resolution_05_A, at))
    return np.mean(found, axis=0)


def sorted_states(folder: Path, runs: list[RunFolder]) -> None:
    """The table of clusters."""
    label = np.load(folder / "truth.npz")["label"].astype(np.int64)
    states = int(label.max()) + 1
    maps = [torch.tensor(read_map(folder / "maps" / f"{i:03d}.mrc")[0]) for i in range(states)]
    store = runs[0].store()
    ways = {"the truth": label, "at random": np.random.default_rng(0).integers(0, states, len(label))}
    ways |= {run.path.name: clusters(run, states) for run in runs}
    print("| clusters | entropy | ARI | half maps 0.143 | 0.5 | truth 0.5 |\n|---|---:|---:|---:|---:|---:|")
    for name, cluster in ways.items():
        at = " | ".join(f"{value:.2f} A" for value in resolutions(store, cluster, (label, maps)))
        scores = f"{cluster_entropy(cluster, label):.3f} | {adjusted_rand_score(label, cluster):.3f}"
        print(f"| {name} | {scores} | {at} |", flush=True)


def views(runs: list[RunFolder]) -> None:
    """The table of what z says of the direction of view."""
    print("\n| run | classes | by | right | shuffled | chance | errors above |\n|---|---:|---|---:|---:|---:|---:|")
    for run in runs:
        z, rotation = StandardScaler().fit_transform(run.latent_mean()), run.store().require_pose().rotation
        rng = np.random.default_rng(0)
        known, asked = np.array_split(rng.permutation(len(z)), 2)
        for count in (12, 48):
            label = projection_classes(rotation, count).numpy()
            shuffled, chance = rng.permutation(label), 1 / count
            error = (chance * (1 - chance) / len(asked)) ** 0.5
            for by, model in (
                ("neighbours", KNeighborsClassifier(25)),
                ("logistic", LogisticRegression(max_iter=500)),
            ):
                right, by_luck = (model.fit(z[known], y[known]).score(z[asked], y[asked]) for y in (label, shuffled))
                above = (right - chance) / error
                cells = f"{right:.4f} | {by_luck:.4f} | {chance:.4f} | {above:+.1f}"
                print(f"| {run.path.name} | {count} | {by} | {cells} |", flush=True)


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path, help="folder made by `cryomorph simulate`")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--views", action="store_true", help="ask for the direction of view, not for states")
    given = parser.parse_args()
    runs = [RunFolder.open(path) for path in given.runs]
    if given.views:
        views(runs)
    else:
        sorted_states(given.set, runs)


if __name__ == "__main__":
    main()
