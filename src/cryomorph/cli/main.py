"""The `cryomorph` command: which commands there are, and what a person reads when one of them fails.

Nothing heavy is imported before a command is chosen, so that `cryomorph --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from cryomorph import __version__
from cryomorph.config.console import attach_console
from cryomorph.config.errors import InputError


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
        "Lay one map upon another in the better hand, or poses upon the true ones, and say how far they are off.",
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

MOST_SEED = 2**31
PATH_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return its exit status: no exception leaves here.

    0 done; 1 a bug (traceback) or a full disk; 2 something for the user to mend, said in one sentence; 130 interrupted.
    `CRYOMORPH_DEBUG=1` adds the traceback to every error.
    """
    config: Any = None
    attach_console()
    try:
        chosen = _parse(list(sys.argv[1:] if argv is None else argv))
        if chosen is not None:
            runner, config = chosen
            _load(runner)(config)
        sys.stdout.flush()
        return 0
    except SystemExit as stop:  # how the option parser ends after --help or a wrong option
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return _fail(_interrupted(config), 130)
    except Exception as error:
        return _explain(error, config)


def _explain(error: Exception, config: Any) -> int:
    """Say what an error means to the user, where it is theirs to mend; a traceback where it is ours."""
    if isinstance(error, InputError):
        return _fail(f"error: {error}", 2)
    if isinstance(error, BrokenPipeError) and _reader_left():
        return 141
    if _disk_is_full(error):
        where = getattr(error, "filename", None) or getattr(config, "output", None) or Path.cwd()
        return _fail(f"error: no space left on the disk of {where}: free some and run the same command again", 1)
    if isinstance(error, PATH_ERRORS) and error.filename is not None:
        return _fail(f"error: {os.fsdecode(error.filename)}: {(error.strerror or 'cannot be used').lower()}", 2)
    return _fail(f"error: this is a bug in cryomorph {__version__}: please report the lines above", 1, trace=True)


def _parse(argv: list[str]) -> tuple[str, Any] | None:
    """The command's function (`module:function`) and its config; None where the question is answered already."""
    if argv and argv[0] == "help":
        argv = [*argv[1:], "--help"]
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return None
    if argv[0] == "--version":
        print(f"cryomorph {__version__}")
        return None
    name, *rest = argv
    if name not in COMMANDS:
        raise InputError(f"unknown command '{name}'{_nearest(name, COMMANDS)}; `cryomorph --help` lists the commands")
    command = COMMANDS[name]
    if command.config is None:
        return _parse_method(name, command, rest)
    return command.runner, _options(_load(command.config), f"cryomorph {name}", command, rest)


def _parse_method(name: str, command: Command, rest: list[str]) -> tuple[str, Any] | None:
    """The same for a command whose first word is a method."""
    methods: dict[str, Any] = _load("cryomorph.config.methods:methods")()
    if not rest or rest[0] in ("-h", "--help"):
        print(_method_overview(name, command, methods))
        return None
    method, *rest = rest
    if method not in methods:
        raise InputError(
            f"unknown method '{method}'{_nearest(method, methods)}: expected `cryomorph {name} METHOD particles.star "
            f"-o run` with METHOD one of {', '.join(methods)}"
        )
    return command.runner, _options(methods[method].config, f"cryomorph {name} {method}", command, rest)


def _options(kind: Any, prog: str, command: Command, rest: list[str]) -> Any:
    """Parse a command's options into its config."""
    import tyro

    from cryomorph.config.choices import as_given

    found = tyro.cli(
        as_given(kind),
        default=_defaults_from_file(kind, rest),
        prog=prog,
        description=f"{command.summary}\n\nExample: {command.example}",
        args=rest,
        # options that may be absent are left out, not given as the word "None"; comments in a config are not help
        config=(tyro.conf.DisallowNone, tyro.conf.HelptextFromCommentsOff, tyro.conf.PositionalMetavarFromFieldName),
    )
    seed = getattr(found, "seed", 0)
    if not 0 <= seed < MOST_SEED:
        raise InputError(f"--seed {seed}: expected 0 or more, up to {MOST_SEED - 1}")
    return found


def _defaults_from_file(kind: Any, rest: list[str]) -> Any:
    """What `--config FILE` says, for commands that have it; options on the command line go before it."""
    from dataclasses import fields

    import tyro

    given = next((i for i, word in enumerate(rest) if word == "--config" or word.startswith("--config=")), None)
    if given is None or "config" not in {f.name for f in fields(kind)}:
        return None
    word = rest[given]
    if "=" not in word and given + 1 >= len(rest):
        return None  # the option parser says what is missing
    path = Path(word.split("=", 1)[1] if "=" in word else rest[given + 1])
    from cryomorph.config.load import load_config

    config = load_config(kind, path, fill={"output": "."}, leave="method")
    object.__setattr__(config, "output", tyro.MISSING)  # a frozen config; -o must be given anew
    return config


def _load(reference: str) -> Any:
    """The object that `module:name` says."""
    module, name = reference.split(":")
    return getattr(import_module(module), name)


def _overview() -> str:
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


def _method_overview(name: str, command: Command, methods: dict[str, Any]) -> str:
    """What `cryomorph train --help` prints."""
    summaries = {method: entry.summary for method, entry in methods.items()}
    return "\n".join(
        [
            f"usage: cryomorph {name} METHOD particles.star|store -o run [OPTIONS]",
            "",
            command.summary,
            "",
            "Methods:",
            *(f"  {method:14} {summary}" for method, summary in summaries.items()),
            "",
            f"Example: {command.example}",
            f"`cryomorph {name} METHOD --help` shows a method's options.",
        ]
    )


def _nearest(word: str, known: Sequence[str] | dict[str, Any]) -> str:
    """`: did you mean 'train'?`, or nothing where no known word is near."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f": did you mean '{near[0]}'?" if near else ""


def _fail(sentence: str, status: int, *, trace: bool = False) -> int:
    """Say what went wrong on standard error and pass the exit status on."""
    if trace or os.environ.get("CRYOMORPH_DEBUG", "") not in ("", "0"):
        from traceback import print_exc

        print_exc()
    print(sentence, file=sys.stderr)
    return status


def _interrupted(config: Any) -> str:
    """What an interrupted command leaves behind."""
    if hasattr(config, "resume"):
        return (
            f"interrupted: what was finished is kept in {getattr(config, 'output', 'its folder')}; "
            "the same command with --resume goes on from there"
        )
    if type(config).__name__ == "PrepareConfig":
        return f"interrupted: what was finished is kept in {config.output}.part; the same command goes on from there"
    return "interrupted: finished files are kept, nothing half-written was left behind"


def _disk_is_full(error: Exception) -> bool:
    """Whether the disk (or the quota) is full, as Python, numpy and safetensors say it."""
    import errno

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error)
    # numpy's tofile gives no errno, safetensors its own exception
    short_write = isinstance(error, OSError) and error.errno is None and " requested and " in text and "written" in text
    return short_write or "No space left on device" in text


def _reader_left() -> bool:
    """Whether standard output goes nowhere any more (`cryomorph ... | head`); if so, make its last flush harmless."""
    import select

    try:
        out = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file at all
        return False
    poll = select.poll()
    poll.register(out, 0)
    left = any(event & select.POLLERR for _, event in poll.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return left


if __name__ == "__main__":
    sys.exit(main())
