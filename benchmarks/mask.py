"""What the mask of a linear fit is worth: kNN R^2 of two independent hinges with `--mask sphere` and `--mask auto`.

The noise of everything outside a mask becomes noise of the latent space. The docstring of
`training/stages.py: heterogeneity_mask` quotes this with `-n 10000` on the referee's set.

python benchmarks/mask.py [-n 3000]                 simulates a set
python benchmarks/mask.py --set FOLDER [-n 3000]    takes one that has particles.star and truth.npz
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cryomorph.latents.held_out import held_out_r2
from cryomorph.runs.folder import RunFolder

MASKS = ("sphere", "auto")


def cryomorph(*arguments: object) -> float:
    """Run one command line; its seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "cryomorph.cli.main", *map(str, arguments)], check=True)
    return time.perf_counter() - start


def main() -> None:
    """Make or take the set, prepare it once, fit it with each mask and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, help="folder of a simulated set; without, one is made and removed")
    parser.add_argument("-n", type=int, default=3000, help="how many particles; of --set, the first so many")
    parser.add_argument("--box", type=int, default=48)
    parser.add_argument("--pixel-A", type=float, default=6.0)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--zdim", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="cryomorph-mask-") as scratch:
        work = Path(scratch)
        folder = given.set
        if folder is None:
            folder = work / "set"
            form = ("--box", given.box, "--pixel-A", given.pixel_A, "--snr", given.snr, "--seed", given.seed)
            cryomorph("simulate", "two-hinge", "-o", folder, "-n", given.n, *form)
        with np.load(folder / "truth.npz", allow_pickle=False) as truth:
            coord = truth["conf_coord"][truth["label"]][: given.n]
        (work / "first.txt").write_text("\n".join(map(str, range(len(coord)))) + "\n")
        store = work / "store"
        cryomorph("prepare", folder / "particles.star", "-o", store, "--index", work / "first.txt")
        print(f"{folder}: {len(coord)} particles, zdim {given.zdim}", flush=True)
        for mask in MASKS:
            run = work / mask
            fit = ("--zdim", given.zdim, "--mask", mask, "--seed", given.seed)
            seconds = cryomorph("train", "linear", store, "-o", run, *fit)
            score = held_out_r2(RunFolder.open(run).latent_mean(), coord)
            print(f"--mask {mask:8} kNN R^2 {score:.3f}  ({seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
