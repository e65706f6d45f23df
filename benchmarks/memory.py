"""Memory of a training on a very large set: a sparse store of a million images at box 128, and a few hundred steps.

The store's coefficients are a file with a hole: nothing is on the disk, every image is zero. Printed is the most memory
that was resident at once, for a small and for the large store: what grows is a row of metadata and of the latent table
for each particle, not the images.

python benchmarks/memory.py --workdir /tmp/memory [--box 128] [--steps 60] [--width 256]
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

SIZES = (10_000, 1_000_000)
ZDIM = 8


def sparse_store(folder: Path, n: int, box: int) -> None:
    """A store of `n` images that are zero, without their bytes."""
    import numpy as np

    from cryomorph.particles.manifest import COEFFICIENTS, FORMAT, Manifest
    from cryomorph.physics.disk import fourier_disk

    folder.mkdir(parents=True)
    shape = (n, fourier_disk(box).size, 2)
    np.lib.format.open_memmap(folder / COEFFICIENTS, mode="w+", dtype=np.float16, shape=shape)
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, n)
    rotation = np.zeros((n, 3, 3), np.float32)
    rotation[:, 0, 0] = rotation[:, 1, 1] = np.cos(angle)
    rotation[:, 0, 1], rotation[:, 1, 0], rotation[:, 2, 2] = np.sin(angle), -np.sin(angle), 1
    np.save(folder / "rotation.npy", rotation)
    np.save(folder / "shift_A.npy", np.zeros((n, 2), np.float32))
    ctf = np.tile(np.float32([15000, 15000, 0, 300, 2.7, 0.1, 0, 0, 1]), (n, 1))
    np.save(folder / "ctf.npy", ctf)
    np.save(folder / "row.npy", np.arange(n))
    np.save(folder / "half.npy", np.arange(n) % 2)
    np.save(folder / "noise_amplitude.npy", np.ones(box // 2 + 1, np.float32))
    made = Manifest(FORMAT, n, n, box, 1.0, "sparse", box, 1.0, "particles.star", False, "none", [], [])
    made.write(folder)


def train(folder: Path, steps: int, width: int) -> None:
    """Training steps on a store, as `train neural-field` takes them."""
    import torch

    from cryomorph.compute.distributed import Parallel
    from cryomorph.config.neural_field import NeuralFieldConfig, neural_field_by_recipe
    from cryomorph.config.training import TrainingConfig
    from cryomorph.encoders.table import TableEncoder
    from cryomorph.methods.neural_field import resolve
    from cryomorph.models.heterogeneous import Heterogeneous
    from cryomorph.particles.store import ParticleStore
    from cryomorph.representations.encodings import frequency_matrix
    from cryomorph.representations.field_network import FieldShape
    from cryomorph.representations.neural_field import NeuralField
    from cryomorph.training.trainer import Trainer

    store = ParticleStore.open(folder)
    field = NeuralField(FieldShape(store.box, ZDIM, width), frequency_matrix("gaussian", store.box))
    table = TableEncoder(torch.zeros(len(store), ZDIM), torch.ones(len(store), ZDIM))
    model = Heterogeneous(field, table, prior_std=torch.ones(ZDIM), whitening=torch.ones(store.disk.size))
    plan = TrainingConfig(epochs=1, batch_size=8, optimiser="adam", learning_rate=1e-4, latent_rate=0.3, held_out=0.0)
    given = NeuralFieldConfig(folder, folder, zdim=ZDIM, training=plan)
    options = resolve(neural_field_by_recipe(given), store, torch.device("cpu"))
    trainer = Trainer(model, store, options.training, parallel=Parallel(0, 1, torch.device("cpu")), seed=0)
    for batch in itertools.islice(trainer.batches(), steps):
        trainer.step(batch, trainer.disk)
    trainer.report()


def main() -> None:
    """Make each store and train on it in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--make", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.make:
        sparse_store(asked.workdir / str(asked.make), asked.make, asked.box)
        return
    if asked.train:
        train(asked.train, asked.steps, asked.width)
        return
    resident = []
    for n in SIZES:
        shutil.rmtree(asked.workdir / str(n), ignore_errors=True)
        common = [sys.executable, __file__, "--workdir", str(asked.workdir), "--box", str(asked.box)]
        subprocess.run([*common, "--make", str(n)], check=True)
        options = ["--train", str(asked.workdir / str(n)), "--steps", str(asked.steps), "--width", str(asked.width)]
        process = subprocess.Popen([*common, *options])
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status):
            raise SystemExit("training failed")
        resident.append(usage.ru_maxrss / 1024)
        print(f"{n:,} images of box {asked.box}: {resident[-1]:.0f} MiB resident", flush=True)
        shutil.rmtree(asked.workdir / str(n))
    bytes_each = (resident[1] - resident[0]) * 2**20 / (SIZES[1] - SIZES[0])
    print(f"{bytes_each:.0f} bytes for each particle more")


if __name__ == "__main__":
    main()
