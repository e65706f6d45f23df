"""Where `cryomorph analyze` spends its time, and how two versions of the program compare.

python benchmarks/analyze.py RUN                      seconds and processor seconds of the command, and of its stages
python benchmarks/analyze.py RUN --source OTHER/src   the same command by another version too, and the ratio of both

The first run on a machine compiles; run it twice. On 5,000 images at box 32 (hinge), on two processors that other work
kept busy, the version before took 292 s and 134 processor seconds, this one 61 s and 30 (`--source`).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

SOURCE = Path(__file__).parents[1] / "src"


def command(run: Path, source: Path) -> tuple[float, float]:
    """Seconds and processor seconds of the command by a version of the program, its own processes included."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "import sys; from cryomorph.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with tempfile.TemporaryDirectory() as output:
        words = ["analyze", str(run), "-o", f"{output}/analysis"]
        environment = os.environ | {"PYTHONPATH": str(source)}
        subprocess.run([sys.executable, "-c", code, *words], check=True, env=environment, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, busy


def timed(name: str, work: Callable[[], Any]) -> Any:
    """What some work returns; its seconds and processor seconds are printed."""
    start, busy = time.perf_counter(), time.process_time()
    found = work()
    print(f"{name:44} {time.perf_counter() - start:7.2f} s {time.process_time() - busy:7.2f} s")
    return found


def stages(path: Path) -> None:
    """The seconds of each stage, one after another in this process."""
    from cryomorph.analysis.decode import decode_at, reconstruct_at
    from cryomorph.analysis.latent_space import latent_space
    from cryomorph.analysis.umap_embedding import umap_embedding
    from cryomorph.config.analyze import AnalyzeConfig
    from cryomorph.render.isosurface import common_level, draw_surface
    from cryomorph.render.raycast import interpolate, prepare_surface, surface_radius
    from cryomorph.runs.folder import RunFolder
    from cryomorph.volumes.grid import resize

    run = RunFolder.open(path, unfinished=True)
    space = timed("latent space, without UMAP", lambda: latent_space(run, AnalyzeConfig(path)))
    timed("UMAP, compiling or loading what is compiled", lambda: umap_embedding(space.z))
    timed("UMAP again", lambda: umap_embedding(space.z))
    torch.set_num_threads(1)  # after UMAP, whose compiler sets it
    centres = space.z[space.clusters.centre_index]
    box = run.store().box
    maps = timed(f"decoding {len(centres)} maps", lambda: list(decode_at(run, centres, box)))
    timed(f"reconstructing {len(centres)} maps", lambda: list(reconstruct_at(run, centres)))
    level = common_level(maps)
    surface = prepare_surface(maps[0], level)
    timed("a picture, compiling or loading", lambda: draw_surface(surface, size=220))
    one = torch.as_tensor(np.asarray(maps[0]))
    for name, work in {
        "measuring 20 maps": lambda: surface_radius(maps[0], level),
        "preparing 20 maps": lambda: prepare_surface(maps[0], level),
        "drawing 20 maps": lambda: draw_surface(surface, size=220),
        "interpolating 20 maps by matrices": lambda: interpolate(one, 128),
        "interpolating 20 maps by Fourier transforms": lambda: resize(one, 128),
    }.items():
        timed(name, lambda work=work: [work() for _ in range(20)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder; it is not changed")
    parser.add_argument("--source", type=Path, help="the `src` folder of another version of the program")
    asked = parser.parse_args()
    wall, busy = command(asked.run, SOURCE)
    print(f"{'cryomorph analyze':44} {wall:7.1f} s {busy:7.1f} s of processors")
    if asked.source is not None:
        other = command(asked.run, asked.source)
        print(f"{f'by {asked.source}':44} {other[0]:7.1f} s {other[1]:7.1f} s")
        print(f"{'ratio':44} {other[0] / wall:7.1f}   {other[1] / busy:7.1f}")
    stages(asked.run)


if __name__ == "__main__":
    main()
