"""What a neural field's training costs, on the device that is there: steps, number formats, optimisers, cryoDRGN.

1. Images per second of training steps by box and width, in float32 and bfloat16. Efficiency is `6 x weights x points`
   operations a step (2 forward, 4 backward) over the device's own matrix-product peak in that format, measured before.
   "By threads": how many times as fast as when torch divides every operation among the processors
   (compute/batch_threads.py).
2. Steps until the warm start's field holds a share of the linear maps' power, with Adam and with Muon.
3. With --cryodrgn: seconds for an epoch of `cryodrgn train_vae` (256 x 3, batch 8) and of our `--recipe paper` at the
   same sizes, each in the number format it chooses, in turn, so that whatever else the machine does falls on both.

python benchmarks/neural_field.py [--quick] [--parts steps warm] [--cryodrgn VENV SET]

VENV holds `bin/cryodrgn`; SET is a folder of `cryomorph simulate` or of the referee: particles.mrcs, particles.star and
made.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch

from cryomorph.commands.train import train
from cryomorph.compute.device import choose_device
from cryomorph.compute.distributed import Parallel
from cryomorph.config.linear import LinearConfig
from cryomorph.config.neural_field import NeuralFieldConfig, neural_field_by_recipe
from cryomorph.config.simulate import SimulateConfig
from cryomorph.encoders.table import TableEncoder
from cryomorph.methods.neural_field import build_model, resolve
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.particles.store import Batch
from cryomorph.physics.disk import FourierDisk, fourier_disk
from cryomorph.physics.pose import random_rotations
from cryomorph.representations.encodings import frequency_matrix
from cryomorph.representations.field_network import FieldShape
from cryomorph.representations.linear import LinearSubspace
from cryomorph.representations.neural_field import NeuralField
from cryomorph.simulation.sets import simulate_set
from cryomorph.training import distillation as warm
from cryomorph.training.consensus import reconstruct_consensus
from cryomorph.training.device import compile_network, threads_for
from cryomorph.training.linear_start import LinearStart, first_targets
from cryomorph.training.optimise import Optimisers
from cryomorph.training.stages.warm_start import BATCH as WARM_BATCH
from cryomorph.training.trainer import Trainer

ZDIM = 8
SHARES = (0.5, 0.8, 0.9, 0.95)
FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Pretended:
    """As much of a particle store as a training step looks at."""

    box: int
    count: int
    copies: int = 1

    def __len__(self) -> int:
        return self.count

    @property
    def disk(self) -> FourierDisk:
        """The Fourier disk of the box."""
        return fourier_disk(self.box)


def seconds(action: Callable[[], object], device: torch.device, *, budget: float) -> float:
    """The least time of an action, run at least three times and for at least so many seconds, after a first time."""

    def once() -> float:
        start = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()
    times = [once()]
    while len(times) < 3 or sum(times) < budget:
        times.append(once())
    return min(times)


def peak(device: torch.device, name: str, *, budget: float) -> float:
    """Operations per second of one large matrix product in a number format."""
    edge = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(edge, edge, device=device, dtype=FORMATS[name]) for _ in range(2))
    return 2 * edge**3 / seconds(lambda: left @ right, device, budget=budget)


def trainer_of(box: int, width: int, images: int, *, precision: str, device: torch.device) -> Trainer:
    """A training of the default recipe's field at a size, on particles that are noise."""
    store = Pretended(box, images)
    options = resolve(neural_field_by_recipe(NeuralFieldConfig(Path("none"), Path("none"), zdim=ZDIM)), store, device)
    network = options.network
    count = round(network.feature_share * box)
    frequencies = frequency_matrix(network.encoding, box, sigma=network.feature_sigma, count=count)
    field = NeuralField(FieldShape(box, ZDIM, width, network.layers), frequencies)
    table = TableEncoder(torch.zeros(images, ZDIM), torch.ones(images, ZDIM))
    model = Heterogeneous(field, table, prior_std=torch.ones(ZDIM), whitening=torch.ones(store.disk.size)).to(device)
    compile_network(model.representation, "auto", device)
    plan = replace(options.training, precision=precision, batch_size=images, held_out=0.0, epochs=1)
    return Trainer(model, store, plan, parallel=Parallel(0, 1, device), seed=0)  # type: ignore[arg-type]


def step_table(given: argparse.Namespace, device: torch.device) -> None:
    """Print images per second and efficiency for every box, width and number format."""
    tops = {name: peak(device, name, budget=given.budget) for name in FORMATS}
    print("peak of a matrix product: " + ", ".join(f"{name} {top / 1e12:.2f} Tflop/s" for name, top in tops.items()))
    columns = "".join(f"{name + ': images/s':>22} {'of peak':>8} {'by threads':>8}" for name in tops)
    print(f"{'box':>4} {'width':>6} {'batch':>6}{columns}")
    for box in given.boxes:
        disk = fourier_disk(box)
        images = max(1, given.points // disk.size)
        chance = torch.Generator().manual_seed(0)
        noise = torch.randn(images, disk.size, dtype=torch.complex64, generator=chance)
        rotation = random_rotations(images, chance)
        batch = Batch(torch.arange(images), noise, torch.ones(images, disk.size), rotation).to(device)
        for width in given.widths:
            line = f"{box:4} {width:6} {images:6}"
            for precision, top in tops.items():
                trainer = trainer_of(box, width, images, precision=precision, device=device)
                step = partial(trainer.step, batch, disk)
                undivided = seconds(step, device, budget=given.budget)
                with threads_for(device, images) as trainer.threads:
                    taken = seconds(step, device, budget=given.budget)
                network = trainer.model.representation.network
                layers = (network.encoding_layer, *network.hidden, network.output)
                operations = 6 * sum(layer.weight.numel() for layer in layers) * images * disk.size
                line += f"{images / taken:22.1f} {operations / taken / top:8.0%} {undivided / taken:7.2f}x"
            print(line, flush=True)


class Reached(Exception):
    """The highest share was reached: no further steps are needed."""


def warm_table(given: argparse.Namespace, device: torch.device, work: Path) -> None:
    """Print the steps in which each optimiser brings the field to each share of the linear maps' power."""
    star = simulate_set(
        SimulateConfig("uniform", work / "set", n=given.n, box=given.warm_box, pixel_A=256 / given.warm_box, snr=0.1)
    )
    run = train(LinearConfig(star / "particles.star", work / "linear", zdim=given.zdim))
    store, found = run.store(), reconstruct_consensus(run, run.store())
    teacher = run.representation()
    if not isinstance(teacher, LinearSubspace):
        raise SystemExit("the linear run holds no linear subspace")
    start = LinearStart(teacher, torch.from_numpy(run.latent_mean()), torch.from_numpy(run.latent_std()))
    targets = first_targets(start.on_landscape(0), given.zdim, seed=0)
    field = NeuralFieldConfig(star / "particles.star", work / "field", zdim=given.zdim)
    options = resolve(neural_field_by_recipe(field), store, device)
    print(f"\nwarm start: box {given.warm_box}, width {options.network.width}, zdim {given.zdim}, batch {WARM_BATCH}")
    columns = "".join(f"{f'to {share:.0%}':>8}" for share in SHARES)
    print(f"{'optimiser':>10} {'rate':>8} {'steps':>6}{columns}  held")
    plans = [("muon", warm.LEARNING_RATE, given.steps)]
    plans += [("adam", rate, given.steps * given.longer) for rate in given.adam_rates]
    for kind, rate, steps in plans:
        model = build_model(options, store, found, targets=targets).to(device)
        reached: dict[float, int] = {}
        held = 0.0

        def note(step: int, missing: float, reached: dict[float, int] = reached) -> None:
            nonlocal held
            held = 1 - missing
            for share in SHARES:
                if held >= share:
                    reached.setdefault(share, step + 1)
            if len(reached) == len(SHARES):
                raise Reached

        # the module's own loop and schedule, with another optimiser and rate
        with (
            patch.object(warm, "Optimisers", lambda student, _, kind=kind: Optimisers(student, kind)),
            patch.object(warm, "LEARNING_RATE", rate),
            suppress(Reached),
        ):
            warm.distil(
                model.representation,
                teacher.to(device),
                targets,
                transfer=warm.average_transfer(store, model.whitening.cpu(), seed=0).to(device),
                disk=store.disk,
                steps=steps,
                batch_size=WARM_BATCH,
                seed=0,
                half_precision=False,
                after_step=note,
            )
        cells = "".join(f"{reached.get(share, '-'):>8}" for share in SHARES)
        print(f"{kind:>10} {rate:8.0e} {steps:6}{cells} {held:5.1%}", flush=True)


def epoch_table(given: argparse.Namespace, work: Path) -> None:
    """Print the seconds of epochs of cryoDRGN and of our paper recipe at equal sizes."""
    venv, folder = (Path(part).resolve() for part in given.cryodrgn)
    made = json.loads((folder / "made.json").read_text())
    program = venv / "bin" / "cryodrgn"
    shape = ["-D", made["box"], "--Apix", made["apix"]]
    run_quietly(program, "parse_pose_star", folder / "particles.star", *shape, "-o", work / "pose.pkl")
    run_quietly(program, "parse_ctf_star", folder / "particles.star", *shape, "-o", work / "ctf.pkl")
    size = ["--enc-dim", 256, "--dec-dim", 256, "--enc-layers", 3, "--dec-layers", 3, "--zdim", ZDIM, "-b", 8]
    files = [folder / "particles.mrcs", "--poses", work / "pose.pkl", "--ctf", work / "ctf.pkl"]
    print(f"\nan epoch of {made['n']} images, box {made['box']}, 256 x 3, zdim {ZDIM}, batch 8")
    ours, theirs = [], []
    for number in range(given.rounds):
        where = work / f"cryodrgn{number}"
        run_quietly(program, "train_vae", *files, *size, "-n", given.epochs, "-o", where, "--no-analysis")
        told = re.findall(r"Epoch: \d+ Average.*Finished in (\d+):(\d+):([\d.]+)", (where / "run.log").read_text())
        theirs += [3600 * int(h) + 60 * int(m) + float(s) for h, m, s in told]
        command = [sys.executable, "-m", "cryomorph.cli.main", "train", "neural-field", folder / "particles.star"]
        sizes = ["--recipe", "paper", "--zdim", ZDIM, "--epochs", given.epochs, "--held-out", 0]
        run_quietly(*command, "-o", work / f"ours{number}", *sizes)
        rows = [json.loads(line) for line in (work / f"ours{number}" / "metrics.jsonl").read_text().splitlines()]
        ours += [row["seconds"] for row in rows if row["stage"] == "epoch"]
    for name, taken in (("cryodrgn train_vae", theirs), ("cryomorph --recipe paper", ours)):
        if not taken:
            raise SystemExit(f"{name}: no epoch was finished")
        text = " ".join(f"{value:.2f}" for value in taken)
        print(f"{name:26} least {min(taken):7.2f} s   all: {text}")
    print(f"ratio of the least: {min(theirs) / min(ours):.2f}", flush=True)


def run_quietly(*command: object) -> None:
    """Run a program; show what it said only when it failed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command[:3]))} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and short times: does the script work?")
    parser.add_argument("--parts", nargs="*", choices=("steps", "warm"), default=["steps", "warm"])
    parser.add_argument("--cryodrgn", nargs=2, metavar=("VENV", "SET"), help="time epochs beside cryoDRGN's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--boxes", nargs="+", type=int, default=[32, 64, 128])
    parser.add_argument("--widths", nargs="+", type=int, default=[128, 256, 512, 1024])
    parser.add_argument("--points", type=int, help="coefficients in a step (default: 2^15, on a GPU 2^18)")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds at least for each number")
    parser.add_argument("-n", type=int, default=3000, help="particles of the simulated set")
    parser.add_argument("--warm-box", type=int, default=64)
    parser.add_argument("--zdim", type=int, default=4, help="of the warm start")
    parser.add_argument("--steps", type=int, default=300, help="Muon's steps")
    parser.add_argument("--longer", type=int, default=10, help="Adam may take so many times the steps")
    parser.add_argument("--adam-rates", nargs="+", type=float, default=[1e-3, 4e-3])
    parser.add_argument("--epochs", type=int, default=2, help="epochs in each round beside cryoDRGN")
    parser.add_argument("--rounds", type=int, default=2, help="rounds in which both are run in turn")
    given = parser.parse_args()
    device = choose_device(given.device)
    if given.points is None:
        given.points = 1 << (18 if device.type == "cuda" else 15)
    if given.quick:
        given.boxes, given.widths, given.points, given.budget = [32], [128, 256], 1 << 13, 0.2
        given.n, given.warm_box, given.zdim, given.steps, given.longer, given.adam_rates = 400, 32, 2, 40, 2, [4e-3]
        given.epochs, given.rounds = 1, 1
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{device.type}, {name}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory(prefix="cryomorph-neural-field-") as scratch:
        if "steps" in given.parts:
            step_table(given, device)
        if "warm" in given.parts:
            warm_table(given, device, Path(scratch))
        if given.cryodrgn:
            epoch_table(given, Path(scratch))


if __name__ == "__main__":
    main()
