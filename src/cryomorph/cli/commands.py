"""Which commands there are: their options, their functions, and a line on each.

Everything is named as `module:object`, so that `cryomorph --help` imports none of it.
"""

from __future__ import annotations

from typing import NamedTuple

from cryomorph import __version__


class Command(NamedTuple):
    """A command: its config (`module:Class`; None where a method chooses it), its function, its overview line."""

    config: str | None
    runner: str
    summary: str
    example: str


COMMANDS = {
    "prepare": Command(
        "cryomorph.config.prepare:PrepareConfig",
        "cryomorph.commands.prepare:prepare",
        "Turn a RELION or cryoSPARC particle file into a particle store (train does it by itself).",
        "cryomorph prepare particles.star -o store --box 128",
    ),
    "backproject": Command(
        "cryomorph.config.backproject:BackprojectConfig",
        "cryomorph.commands.backproject:backproject",
        "Reconstruct one map of all particles, with half maps, FSC, mask and sharpening.",
        "cryomorph backproject particles.star -o consensus",
    ),
    "train": Command(
        None,
        "cryomorph.commands.train:train",
        "Fit a landscape of structures to the particles; each method is a subcommand.",
        "cryomorph train linear particles.star -o run --zdim 4",
    ),
    "abinit": Command(
        "cryomorph.config.abinit:AbinitConfig",
        "cryomorph.commands.abinit:abinit",
        "Find poses and a map from images alone: no poses given, none needed.",
        "cryomorph abinit particles.star -o run",
    ),
    "decode": Command(
        "cryomorph.config.decode:DecodeConfig",
        "cryomorph.commands.decode:decode",
        "Write the maps of chosen particles or latent points, in the order asked for.",
        "cryomorph decode run -o maps --particles index.txt",
    ),
    "encode": Command(
        "cryomorph.config.encode:EncodeConfig",
        "cryomorph.commands.encode:encode_particles",
        "Find the latent points of new particles under a trained model.",
        "cryomorph encode run more.star -o run_more",
    ),
    "import": Command(
        "cryomorph.config.import_run:ImportConfig",
        "cryomorph.commands.import_run:import_cryodrgn",
        "Bring a cryoDRGN 4 run over: its latent points and its decoder.",
        "cryomorph import cryodrgn_output -o run",
    ),
    "analyze": Command(
        "cryomorph.config.analyze:AnalyzeConfig",
        "cryomorph.commands.analyze:analyze",
        "PCA, UMAP, clusters, representative maps, and one report.html of it all.",
        "cryomorph analyze run",
    ),
    "landscape": Command(
        "cryomorph.config.landscape:LandscapeConfig",
        "cryomorph.commands.landscape:landscape",
        "Discrete states and continuous coordinates of a run's maps, and every particle's place among them.",
        "cryomorph landscape run",
    ),
    "select": Command(
        "cryomorph.config.select:SelectConfig",
        "cryomorph.commands.select:select",
        "Choose particles by cluster, state, lasso, range or list, and write them for RELION or cryoSPARC.",
        "cryomorph select run --cluster 3 5 -o chosen.star",
    ),
    "split": Command(
        "cryomorph.config.split:SplitConfig",
        "cryomorph.commands.split:split",
        "Divide particles at random into two files.",
        "cryomorph split particles.star -o train.star test.star --random 0.9",
    ),
    "compare": Command(
        "cryomorph.config.compare:CompareConfig",
        "cryomorph.commands.compare:compare",
        "How far two runs on the same particles agree.",
        "cryomorph compare run run2 -o agreement",
    ),
    "traverse": Command(
        "cryomorph.config.traverse:TraverseConfig",
        "cryomorph.commands.traverse:traverse",
        "Follow a path through the latent space: maps, pictures, a movie, a ChimeraX script.",
        "cryomorph traverse run --graph 12 345",
    ),
    "motions": Command(
        "cryomorph.config.motions:MotionsConfig",
        "cryomorph.commands.motions:motions",
        "How the Gaussians of a run move: arrows, trajectories, maps, morphed atomic models.",
        "cryomorph motions run --model fitted.pdb",
    ),
    "fsc": Command(
        "cryomorph.config.fsc:FscConfig",
        "cryomorph.commands.fsc:fsc",
        "Fourier shell correlation of two maps, and the resolution it means.",
        "cryomorph fsc half1.mrc half2.mrc",
    ),
    "mask": Command(
        "cryomorph.config.mask:MaskConfig",
        "cryomorph.commands.mask:mask",
        "Make a soft mask from a map.",
        "cryomorph mask map.mrc -o mask.mrc",
    ),
    "align": Command(
        "cryomorph.config.align:AlignConfig",
        "cryomorph.commands.align:align",
        "Align one map with another, in the better hand, or poses with the true ones, and print the errors.",
        "cryomorph align moving.mrc fixed.mrc -o aligned.mrc",
    ),
    "simulate": Command(
        "cryomorph.config.simulate:SimulateConfig",
        "cryomorph.commands.simulate:simulate",
        "Make particle sets with known truth, of phantoms or atomic models.",
        "cryomorph simulate uniform -o particles -n 5000",
    ),
    "benchmark": Command(
        "cryomorph.config.benchmark:BenchmarkConfig",
        "cryomorph.commands.benchmark:benchmark",
        "Score methods on simulated sets against the truth: a table, and JSON.",
        "cryomorph benchmark --help",
    ),
    "demo": Command(
        "cryomorph.config.demo:DemoConfig",
        "cryomorph.commands.demo:demo",
        "See it all work on a simulated hinge protein, in under three minutes.",
        "cryomorph demo -o demo",
    ),
}

TOUR = (
    ("cryomorph demo -o demo", "see it all work first, on simulated particles"),
    ("cryomorph backproject particles.star -o consensus", "one map of all particles, half maps, resolution"),
    ("cryomorph train linear particles.star -o run", "a first landscape: a minute on a laptop CPU"),
    ("cryomorph landscape run", "discrete states, and every particle's place among the maps"),
    ("cryomorph analyze run", "PCA, UMAP, clusters, states, how far to trust it: a page"),
    ("cryomorph decode run -o maps --particles index.txt", "maps of the particles that you choose"),
    ("cryomorph fsc maps/000000.mrc maps/000001.mrc", "how far apart are two of them?"),
)


def overview() -> str:
    """What `cryomorph --help` prints."""
    width = max(len(line) for line, _ in TOUR)
    return "\n".join(
        [
            f"cryomorph {__version__}: from frozen single-particle cryo-EM images to the continuum of structures",
            "they were taken of.",
            "",
            "The tour, in six lines:",
            *(f"  {line:{width}}  {why}" for line, why in TOUR),
            "",
            "Commands:",
            *(f"  {name:12} {command.summary}" for name, command in COMMANDS.items()),
            "",
            "Read more:",
            "  cryomorph COMMAND --help    every option of a command, with its default",
            "  docs/conventions.md         axes, rotations, shifts, CTF: what each means and which test proves it",
            "  --version                   the version; CRYOMORPH_DEBUG=1 shows the traceback of every error",
        ]
    )
