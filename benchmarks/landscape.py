"""How many maps `cryomorph landscape` must decode to know where all particles lie, and how fast it decodes them.

python benchmarks/landscape.py RUN [--sketch 500] [--maps 1024] [--box 64]

Prints the held-out R^2 of the spline of `analysis/landscape/embedding.py`, which predicts a particle's coordinates in
volume space from its latent point, against the number of maps that it goes through beside the sketch; then, for a
neural field, the seconds per map against the number of points that pass through the network at once
(`representations/field_lattice.py`).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from cryomorph.analysis.landscape.embedding import Spline
from cryomorph.analysis.landscape.landscape import kept_scores
from cryomorph.analysis.landscape.sketch import decoder, sketch_maps, sketch_mask, volume_space
from cryomorph.analysis.latent import check_latent, kmeans_on_data
from cryomorph.latents.held_out import r2
from cryomorph.representations import field_lattice
from cryomorph.representations.neural_field import NeuralField
from cryomorph.runs.folder import RunFolder

HELD_OUT = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder; it is not changed")
    parser.add_argument("--sketch", type=int, default=500, help="maps of the sketch (default: %(default)s)")
    parser.add_argument("--maps", type=int, default=1024, help="maps decoded beside the sketch (default: %(default)s)")
    parser.add_argument("--box", type=int, help="box of the maps (default: the run's own, at most 64)")
    asked = parser.parse_args()
    run = RunFolder.open(asked.run, unfinished=True)
    z, box = check_latent(run.latent_mean()), asked.box or min(run.store().box, 64)
    decode = decoder(run.representation(), box, torch.device("cpu"))
    given = kmeans_on_data(z, min(asked.sketch, len(z) // 4)).centre_index
    start = time.perf_counter()
    sketch = sketch_maps(decode, z, given, box=box)
    print(f"sketch of {len(given)} maps of box {box}: {time.perf_counter() - start:.1f} s")
    space = volume_space(sketch, sketch_mask(sketch))
    others = np.random.default_rng(0).permutation(np.setdiff1d(np.arange(len(z)), given))[: asked.maps + HELD_OUT]
    start = time.perf_counter()
    coordinates = np.stack([space.coordinates(decode(z[particle])) for particle in others])
    print(f"{len(others)} more maps: {time.perf_counter() - start:.1f} s")
    held, fitted = others[:HELD_OUT], others[HELD_OUT:]
    print(f"{'maps beside the sketch':>24} {'held-out R^2':>14} {'seconds of the spline':>22}")
    for count in [0, *(2**power for power in range(6, 20) if 2**power <= len(fitted))]:
        start = time.perf_counter()
        known = np.concatenate([given, fitted[:count]])
        values = np.concatenate([kept_scores(space), coordinates[HELD_OUT : HELD_OUT + count]])
        predicted = Spline.through(z[known], values)(z[held])
        took = time.perf_counter() - start
        print(f"{count:24} {r2(coordinates[:HELD_OUT], predicted):14.5f} {took:22.2f}")
    if isinstance(run.representation(), NeuralField):
        time_points(run, z[held[:8]], box)


def time_points(run: RunFolder, z: np.ndarray, box: int) -> None:
    """Seconds per map of a neural field against the points that pass through the network at once."""
    print(f"{'points at once':>24} {'seconds per map':>14}")
    for power in range(9, 18):
        field_lattice.POINTS["cpu"] = 1 << power
        decode = decoder(run.representation(), box, torch.device("cpu"))
        decode(z[0])
        start = time.perf_counter()
        for point in z:
            decode(point)
        print(f"{1 << power:24} {(time.perf_counter() - start) / len(z):14.3f}")


if __name__ == "__main__":
    main()
