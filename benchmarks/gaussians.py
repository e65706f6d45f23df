"""What Gaussians cost: their projection, forward and backward, beside one that makes a whole image of each of them.

1. Peak memory in the setting that filled 12 GB in the paper: 3,200 Gaussians, box 128, batch 8.
2. Milliseconds an image and peak memory against the number of Gaussians and the box, for our separable projection and
   for a direct one: `a exp(-2 pi^2 sigma^2 k^2) (cos, sin)(2 pi k.p)` of every Gaussian at every coefficient of the
   same disk, with autograd. Gradients are by positions, widths and amplitudes. Where a batch of 8 is estimated to take
   more than --memory (the direct one: --direct-memory), a single image is taken, or nothing.
3. The tables alone: angles doubled again and again beside a cosine and a sine of every angle.
4. A whole training step of `train gaussians`, by each recipe, on images that are noise: encoder, slices, loss, backward
   and the optimisers.

Seconds are medians of --repeats rounds in which the ways of a line are run in turn, so that whatever else the machine
does falls on all of them; threads share the images of a batch, as in training. Memory is what was resident at most
above what was before, of two runs in a process of its own (Linux only). Ratios are of an image.

python benchmarks/gaussians.py [--quick] [--parts paper projection tables step]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryomorph.compute.batch_threads import BatchThreads
from cryomorph.config.gaussians import RECIPES, GaussiansConfig, gaussians_by_recipe
from cryomorph.physics.disk import FourierDisk, fourier_disk
from cryomorph.physics.gaussian_slices import Mixture, gaussian_tables, project_gaussians

PAPER_GB = 12
BATCH = 8
FLOAT = 4
SEPARABLE_FLOATS = 13  # for each image, Gaussian and frequency of an axis: an estimate
DIRECT_FLOATS = 7  # for each image, Gaussian and coefficient, and 2 more of falloffs, which all images share
PARTS = ("paper", "projection", "tables", "step")
Way = Callable[[BatchThreads], Any]


def cloud(count: int, box: int, images: int) -> Mixture:
    """Gaussians of a molecule that fills half the box, at other places in each image."""
    chance = torch.Generator().manual_seed(0)
    position = torch.randn(images, count, 3, generator=chance) * box / 8
    width = torch.rand(1, count, generator=chance) + 0.8
    return Mixture(position, width, torch.rand(images, count, generator=chance) + 0.1)


def project_directly(mixture: Mixture, disk: FourierDisk) -> Tensor:
    """Coefficients as sums over whole images, one for each Gaussian."""
    k = disk.frequency.float() / disk.box
    phase = mixture.position[..., :2] @ (-2 * torch.pi * k.mT)
    falloff = torch.exp(-2 * (torch.pi * mixture.width[..., None] * k.norm(dim=1)) ** 2)
    amplitude = mixture.amplitude[:, None]
    real, imaginary = (torch.bmm(amplitude, falloff * wave(phase)) for wave in (torch.cos, torch.sin))
    return torch.complex(real, imaginary)[:, 0]


def forward_and_backward(project: Callable[[Mixture, FourierDisk], Tensor], count: int, box: int, *, batch: int) -> Way:
    """What projects a cloud and gives images, and their gradients by all that describes the Gaussians."""
    disk, given = fourier_disk(box), cloud(count, box, batch)
    project_gaussians(cloud(1, box, 1), disk)  # where its coefficients lie is found once
    weight = torch.randn(batch, disk.size, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))

    def part(rows: slice) -> tuple[Tensor, ...]:
        own = Mixture(given.position[rows], given.width, given.amplitude[rows])
        own = Mixture(*(numbers.detach().requires_grad_() for numbers in own))
        image = project(own, disk)
        return image.detach(), *torch.autograd.grad(image, own, weight[rows])

    return lambda threads: threads.map(part, threads.rows(batch))


def training_step(recipe: str, count: int, box: int, *, batch: int) -> Way:
    """A step of `train gaussians` by a recipe's own networks, objective and optimiser."""
    from cryomorph.encoders.gradient import GradientEncoder
    from cryomorph.encoders.table import TableEncoder
    from cryomorph.models.heterogeneous import Heterogeneous
    from cryomorph.objectives.frc import RingCorrelation, equal_rings
    from cryomorph.objectives.likelihood import negative_log_likelihood
    from cryomorph.particles.store import Batch
    from cryomorph.physics.pose import random_rotations
    from cryomorph.representations.gaussian_motion import GaussianShape
    from cryomorph.representations.gaussians import Gaussians
    from cryomorph.training.optimise import Optimisers

    options = gaussians_by_recipe(GaussiansConfig(Path("none"), Path("none"), recipe=recipe))  # type: ignore[arg-type]
    network, disk, zdim = options.network, fourier_disk(box), options.zdim
    chance = torch.Generator().manual_seed(0)
    images = torch.randn(batch, disk.size, dtype=torch.complex64, generator=chance)
    rotation = random_rotations(batch, chance)
    seen = Batch(torch.arange(batch), images, torch.ones(batch, disk.size), rotation)
    shape = GaussianShape(
        box,
        zdim,
        count,
        changes=network.change,
        parts=min(network.parts, count),
        width=network.width,
        layers=network.layers,
        noisy=network.noisy,
        spread_penalty=network.spread_penalty,
        decay=network.decay,
    )
    neutral, weight = cloud(count, box, 1), equal_rings(disk, first=1, last=box / 2)
    encoder: TableEncoder | GradientEncoder = TableEncoder(torch.zeros(batch, zdim), torch.ones(batch, zdim))
    if network.encoder == "gradient":
        encoder = GradientEncoder(
            neutral,
            ring_weight=weight,
            zdim=zdim,
            width=network.encoder_width,
            layers=network.encoder_layers,
            spread=network.encoder_spread,
            noisy=network.noisy,
        )
        encoder.calibrate(seen)
    model = Heterogeneous(
        Gaussians(shape, neutral),
        encoder,
        prior_std=torch.ones(zdim),
        whitening=torch.ones(disk.size),
        objective=RingCorrelation(weight, disk.shell) if network.objective == "frc" else negative_log_likelihood,
    )
    optimiser = Optimisers(model, options.training.optimiser)

    def run(threads: BatchThreads) -> None:
        loss = model(model.prepare_batch(seen, disk), disk, torch.randn(batch, zdim, generator=chance), threads=threads)
        value = (loss.nll + loss.kl.sum(1)).mean() / disk.size + model.representation.penalty()
        optimiser.zero_grad()
        value.backward()
        optimiser.step(options.training.learning_rate, threads=threads)
        if isinstance(encoder, TableEncoder):
            encoder.step(options.training.latent_rate, float(batch * disk.size))

    return run


WAYS: dict[str, Callable[..., Way]] = {
    "separable": partial(forward_and_backward, project_gaussians),
    "direct": partial(forward_and_backward, project_directly),
    **{recipe: partial(training_step, recipe) for recipe in RECIPES},
}


def medians(ways: dict[str, tuple[Way, int]], *, repeats: int) -> dict[str, float]:
    """Seconds for each image of every way, given with its batch: the median of rounds in which each is run once."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, (way, batch) in ways.items():
            with BatchThreads(batch) as threads:
                start = time.perf_counter()
                way(threads)
                taken[name].append((time.perf_counter() - start) / batch)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def resident(what: str) -> int:
    """Bytes of this process in memory: now (`VmRSS`) or at most (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


def print_peak(way: str, count: int, box: int, *, batch: int) -> None:
    """Print the bytes that two runs need above what was there, and all that was resident."""
    with BatchThreads(batch) as threads:
        WAYS[way](min(count, 32), 32, batch=batch)(threads)  # libraries are loaded, threads started
        run = WAYS[way](count, box, batch=batch)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the highest mark so far
        before = resident("VmRSS")
        for _ in range(2):
            run(threads)
    print(resident("VmHWM") - before, resident("VmHWM"))


def peak(way: str, count: int, box: int, *, batch: int) -> tuple[float, float]:
    """What `print_peak` finds in a process of its own, in MB."""
    size = ["--counts", str(count), "--boxes", str(box), "--batch", str(batch)]
    command = [sys.executable, __file__, "--peak", way, *size]
    above, whole = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(above) / 1e6, int(whole) / 1e6


def separable_MB(count: int, box: int, batch: int) -> float:
    """Memory of a projection, estimated."""
    return FLOAT * count * (box // 2) * SEPARABLE_FLOATS * batch / 1e6


def direct_MB(count: int, box: int, batch: int) -> float:
    """Memory of a direct projection, estimated."""
    return FLOAT * count * fourier_disk(box).size * (DIRECT_FLOATS * batch + 2) / 1e6


def fitting(size: Callable[[int], float], limit_GB: float, batch: int) -> int | None:
    """How many images are taken at once, of a size in MB: the batch, or one, or None where even that does not fit."""
    return next((images for images in (batch, 1) if size(images) <= limit_GB * 1e3), None)


def table(*columns: str) -> Callable[..., None]:
    """Print the head of a table; returns what prints a line."""

    def line(*cells: object) -> None:
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)

    print()
    line(*columns)
    line(*["---:"] * len(columns))
    return line


def paper_setting(given: argparse.Namespace) -> None:
    """The memory of the paper's setting beside the paper's."""
    count, box = given.setting
    line = table(f"{count:,} Gaussians, box {box}, batch {given.batch}", "MB above the start", "MB in all", "of 12 GB")
    line("the paper", f"{PAPER_GB * 1000:,}", "", "1")
    for way in ("direct", "separable"):
        above, whole = peak(way, count, box, batch=given.batch)
        line(way, f"{above:,.0f}", f"{whole:,.0f}", f"1/{PAPER_GB * 1000 / above:,.1f}")


def projections(given: argparse.Namespace) -> None:
    """The table of projections over numbers of Gaussians and boxes."""
    check_agreement()
    line = table(
        "box", "Gaussians", "batch", "ms / image", "MB", "direct: ms / image", "MB", "times the time", "times the MB"
    )
    for box in given.boxes:
        for count in given.counts:
            own_size = partial(separable_MB, count, box)
            direct_size = partial(direct_MB, count, box)
            own = fitting(own_size, given.memory, given.batch)
            direct = fitting(direct_size, given.direct_memory, given.batch)
            if own is None:
                line(box, f"{count:,}", 1, "does not fit", f"{own_size(1):,.0f} estimated", *[""] * 4)
                continue
            batches = {"separable": own} | ({} if direct is None else {"direct": direct})
            ways = {way: (WAYS[way](count, box, batch=batch), batch) for way, batch in batches.items()}
            each = medians(ways, repeats=given.repeats)
            del ways
            used = {way: peak(way, count, box, batch=batch)[0] for way, batch in batches.items()}
            cells = ["does not fit", f"{direct_size(1):,.0f} estimated, batch 1", "", ""]
            if direct is not None:
                alone = "" if direct == own else f", batch {direct}"
                less = used["direct"] / direct / (used["separable"] / own)
                faster = each["direct"] / each["separable"]
                cells = [
                    f"{1e3 * each['direct']:,.1f}",
                    f"{used['direct']:,.0f}{alone}",
                    f"{faster:,.0f}x",
                    f"{less:,.0f}x",
                ]
            line(box, f"{count:,}", own, f"{1e3 * each['separable']:,.2f}", f"{used['separable']:,.0f}", *cells)


def check_agreement() -> None:
    """Both ways give the same images and gradients."""
    with BatchThreads(1) as threads:
        found = [WAYS[way](100, 32, batch=2)(threads)[0] for way in ("separable", "direct")]
    for own, direct in zip(*found, strict=True):
        torch.testing.assert_close(own, direct, rtol=0, atol=1e-4 * float(direct.abs().max()))


def every_angle(coordinate: Tensor, envelope: Tensor, box: int) -> Tensor:
    """As `gaussian_tables`, with a cosine and a sine of every angle."""
    rows = envelope.shape[1]
    out = coordinate.new_empty(len(coordinate), 2, rows, coordinate.shape[1])
    angle = torch.arange(rows)[:, None] * (coordinate * (2 * torch.pi / box))[:, None]
    torch.cos(angle, out=out[:, 0])
    torch.sin(angle, out=out[:, 1])
    return out.mul_(envelope[:, None]).flatten(1, 2)


def made_by(tables: Callable[[Tensor, Tensor, int], Tensor], x: Tensor, envelope: Tensor, *, box: int) -> Way:
    """What makes the tables of a batch."""
    return lambda threads: threads.map(lambda rows: tables(x[rows], envelope, box), threads.rows(len(x)))


def tables_alone(given: argparse.Namespace) -> None:
    """The table of ways to make tables."""
    count = given.setting[0]
    line = table(
        f"box, {count:,} Gaussians", "doubled: ms / image", "every angle: ms / image", "faster", "of the projection"
    )
    for box in given.boxes:
        mixture = cloud(count, box, given.batch)
        k = torch.arange(box // 2)[:, None]
        envelope = torch.exp(-2 * (torch.pi / box) ** 2 * k**2 * mixture.width[:, None] ** 2)
        x = mixture.position[..., 0].contiguous()
        torch.testing.assert_close(gaussian_tables(x, envelope, box), every_angle(x, envelope, box), rtol=0, atol=1e-4)
        made = {"doubled": partial(made_by, gaussian_tables), "every": partial(made_by, every_angle)}
        ways = {name: way(x, envelope, box=box) for name, way in made.items()}
        ways["whole"] = WAYS["separable"](count, box, batch=given.batch)
        timed = {name: (way, given.batch) for name, way in ways.items()}
        medians(timed, repeats=1)
        seconds = medians(timed, repeats=5 * given.repeats)
        cells = [f"{1e3 * seconds[name]:,.3f}" for name in ("doubled", "every")]
        share = 2 * seconds["doubled"] / seconds["whole"]  # in x and in y
        line(box, *cells, f"{seconds['every'] / seconds['doubled']:.1f}x", f"{share:.0%}")


def training_steps(given: argparse.Namespace) -> None:
    """The table of training steps."""
    count, box = given.setting
    ways = {name: (WAYS[name](count, box, batch=given.batch), given.batch) for name in (*RECIPES, "separable")}
    medians(ways, repeats=1)
    seconds = medians(ways, repeats=5 * given.repeats)
    title = f"step, {count:,} Gaussians, box {box}, batch {given.batch}"
    line = table(title, "ms / image", "MB above the start", "projection's share")
    for recipe in RECIPES:
        above, _ = peak(recipe, count, box, batch=given.batch)
        line(recipe, f"{1e3 * seconds[recipe]:,.2f}", f"{above:,.0f}", f"{seconds['separable'] / seconds[recipe]:.0%}")


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: does the script work?")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--counts", nargs="+", type=int, default=[300, 1000, 3200, 10_000, 50_000], help="of Gaussians")
    parser.add_argument("--boxes", nargs="+", type=int, default=[32, 64, 128, 256])
    parser.add_argument("--setting", nargs=2, type=int, default=[3200, 128], metavar=("GAUSSIANS", "BOX"))
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--repeats", type=int, default=3, help="rounds of each line")
    parser.add_argument("--memory", type=float, default=4.0, help="GB that a projection may take")
    parser.add_argument("--direct-memory", type=float, default=8.0, help="GB that a direct one may take")
    parser.add_argument("--peak", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.quick:
        given.counts, given.boxes, given.setting, given.repeats = [100], [32], [100, 32], 1
    if given.peak:
        print_peak(given.peak, given.counts[0], given.boxes[0], batch=given.batch)
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}", flush=True)
    parts = {"paper": paper_setting, "projection": projections, "tables": tables_alone, "step": training_steps}
    for name in given.parts:
        parts[name](given)


if __name__ == "__main__":
    main()
