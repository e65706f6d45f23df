"""What a person meets at the command line: the overview, the options, and every way to fail."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import types
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from tyro.conf import Positional, arg

from cryomorph import __version__
from cryomorph.cli.commands import COMMANDS, TOUR, Command
from cryomorph.cli.main import main
from cryomorph.cli.parse import load, option_names, parse
from cryomorph.config.errors import InputError
from cryomorph.config.methods import methods
from cryomorph.config.renamed import OPTIONS


@dataclass(frozen=True)
class ToyConfig:
    """A command of this test."""

    particles: Positional[Path]
    """Particle file."""
    output: Annotated[Path, arg(aliases=["-o"])] = Path("run")
    """Where the results go."""
    box: int | None = None
    """Working box."""
    stacks: tuple[Path, ...] = ()
    """Image files."""
    recipe: Literal["default", "paper"] = "default"
    """The schedule."""
    umap: bool = True
    """Whether to make a UMAP."""
    resume: bool = False
    """Go on from what is there."""

    def __post_init__(self) -> None:
        if self.box is not None and self.box % 2:
            raise InputError(f"--box {self.box}: expected an even box")


@dataclass(frozen=True)
class PlainConfig:
    """A command that cannot be resumed."""

    where: Positional[Path]
    """A folder."""


class Toy:
    """The runner of `cryomorph toy`: keeps the config it was given, fails as it is told to."""

    def __init__(self) -> None:
        self.config: ToyConfig | None = None
        self.error: BaseException | None = None

    def run(self, config: ToyConfig) -> None:
        self.config = config
        if self.error is not None:
            raise self.error


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    runner = Toy()
    module = types.ModuleType("toy_command")
    module.run = runner.run  # type: ignore[attr-defined]
    module.ToyConfig, module.PlainConfig = ToyConfig, PlainConfig  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_command", module)
    monkeypatch.setitem(COMMANDS, "toy", Command("toy_command:ToyConfig", "toy_command:run", "Toy.", "toy x"))
    monkeypatch.setitem(COMMANDS, "plain", Command("toy_command:PlainConfig", "toy_command:run", "Plain.", "p x"))
    monkeypatch.delenv("CRYOMORPH_DEBUG", raising=False)
    return runner


WITH_OPTIONS = [*(name for name, command in COMMANDS.items() if command.config is not None), "train linear"]


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_overview_names_every_command_and_the_tour(argv, capsys):
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert all(command.summary in out for command in COMMANDS.values())
    assert all(line in out for line, _ in TOUR)
    assert max(map(len, out.splitlines())) <= 120


def test_tour_and_examples_start_with_commands_that_exist():
    lines = [line for line, _ in TOUR] + [command.example for command in COMMANDS.values()]
    assert all(line.split()[0] == "cryomorph" and line.split()[1] in COMMANDS for line in lines)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cryomorph {__version__}\n"


@pytest.mark.parametrize("words", WITH_OPTIONS)
def test_help_of_every_command_names_every_option(words, capsys):
    assert main([*words.split(), "--help"]) == 0
    out = capsys.readouterr().out
    name, *method = words.split()
    config = methods()[method[0]].config if method else load(COMMANDS[name].config)
    assert is_dataclass(config)
    for field in fields(config):
        shown = field.name.replace("_", "-")
        assert f"--{shown}" in out or shown.upper() in out.replace("_", "-").upper(), field.name


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_its_function(name):
    assert callable(load(COMMANDS[name].runner))


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_example_of_every_command_parses(name):
    words = COMMANDS[name].example.split()[1:]
    if "--help" in words:
        return
    parsed = parse(words)
    assert parsed is not None
    assert parsed[0] == COMMANDS[name].runner


def test_train_lists_its_methods(capsys):
    assert main(["train"]) == 0
    assert "linear" in capsys.readouterr().out
    assert main(["train", "lineer", "particles.star"]) == 2
    assert "did you mean 'linear'?" in capsys.readouterr().err
    assert main(["train", "particles.star", "-o", "run"]) == 2
    assert "METHOD one of linear" in capsys.readouterr().err


def test_unknown_command_suggests_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown command 'trian': did you mean 'train'?; `cryomorph --help` lists the commands\n"
    )


def test_options_reach_the_runner(toy):
    words = "toy a.star -o out --box 32 --stacks a.mrcs b.mrcs --recipe paper --no-umap --resume"
    assert main(words.split()) == 0
    expected = ToyConfig(
        Path("a.star"), Path("out"), 32, (Path("a.mrcs"), Path("b.mrcs")), "paper", umap=False, resume=True
    )
    assert toy.config == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("toy", "PARTICLES"),
        ("toy a --recipe fast", "paper"),
        ("toy a --outptu b", "--output"),
        ("toy a --box x", "INT"),
    ],
)
def test_wrong_options_are_refused_with_what_was_expected(words, said, toy, capsys):
    assert main(words.split()) == 2
    assert said in capsys.readouterr().err
    assert toy.config is None


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("a.star, row 3: found x"), 2, "error: a.star, row 3: found x\n"),
        (KeyboardInterrupt(), 130, "interrupted: finished files are kept, nothing half-written was left behind\n"),
        (OSError(errno.EROFS, "Read-only file system", "a"), 2, "error: a: read-only file system\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "no space left on the disk of out"),
        (OSError(errno.ENOSPC, "No space left on device", "f.mrc"), 1, "no space left on the disk of f.mrc"),
        (OSError("4096 requested and 12 written"), 1, "no space left on the disk of out"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 1, "no space left on the disk of out"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.mrcs"), 2, "error: a.mrcs: no such file"),
        (PermissionError(errno.EACCES, "Permission denied", b"a.mrcs"), 2, "a.mrcs"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), 2, "error: a: is a directory"),
    ],
)
def test_a_person_s_errors_are_one_sentence(error, status, said, toy, capsys):
    toy.error = error
    assert main(["toy", "a.star", "-o", "out"]) == status
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_an_interrupted_command_says_what_was_noted_last(toy, capsys):
    toy.error = KeyboardInterrupt()
    toy.error.add_note("kept in out.part")
    toy.error.add_note("kept in out; --resume goes on")
    assert main(["plain", "a"]) == 130
    assert capsys.readouterr().err == "interrupted: kept in out; --resume goes on\n"


STOPPED = """
import os, sys, types
from dataclasses import dataclass
from cryomorph.cli.commands import COMMANDS, Command
from cryomorph.cli.main import main
from cryomorph.io.atomic import atomic_path

when, number = sys.argv[1], int(sys.argv[2])

@dataclass(frozen=True)
class Config:
    pass

def run(config):
    if when == "before it writes":
        os.kill(os.getpid(), number)
    with atomic_path("file") as path:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise KeyboardInterrupt if when == "late" else RecursionError("in a half-finished import")

class Toy(types.ModuleType):
    def __getattr__(self, name):
        if when == "early":
            os.kill(os.getpid(), number)
        return run

sys.modules["toy"] = Toy("toy")
sys.modules["toy"].Config = Config
COMMANDS["toy"] = Command("toy:Config", "toy:run", "Toy.", "toy")
sys.argv = ["cryomorph", "toy"]
sys.exit(main())
"""


@pytest.mark.parametrize(("number", "word", "status"), [(2, "interrupted", 130), (15, "terminated", 143)])
@pytest.mark.parametrize("when", ["early", "before it writes", "late", "in an import"])
def test_a_signal_ends_in_one_line_at_whatever_moment(when, number, word, status, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, when, str(number)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    written = when not in ("early", "before it writes")
    left = "finished files are kept, nothing half-written was left behind" if written else "nothing was written"
    assert (done.returncode, done.stderr, done.stdout) == (status, f"{word}: {left}\n", "")


def test_options_of_the_last_version_are_understood_and_said(toy, capsys, monkeypatch):
    monkeypatch.setattr("cryomorph.config.renamed.OPTIONS", {"size": "box", "kind": "recipe", "resume": "umap"})
    assert main(["toy", "a", "--size", "32", "--kind=paper", "--resume"]) == 0
    assert toy.config is not None and (toy.config.box, toy.config.recipe, toy.config.resume) == (32, "paper", True)
    err = capsys.readouterr().err
    assert "warning: --size is now --box" in err and "warning: --kind is now --recipe" in err and "--umap" not in err
    assert main(["plain", "a", "--size", "3"]) == 2  # not where nothing has the new name
    assert "--size" in capsys.readouterr().err


def test_every_renamed_option_has_a_command(capsys):
    kinds = [load(command.config) for command in COMMANDS.values() if command.config is not None]
    kinds += [entry.config for entry in methods().values()]
    known = set().union(*(option_names(kind) for kind in kinds))
    assert set(OPTIONS.values()) <= known


def test_an_error_in_the_options_themselves_is_said(toy, capsys):
    assert main(["toy", "a", "--box", "31"]) == 2
    err = capsys.readouterr().err
    assert "expected an even box" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("error", [KeyError("x"), FileNotFoundError("no name"), BrokenPipeError("of a worker")])
def test_a_bug_shows_its_traceback(error, toy, capsys):
    toy.error = error
    assert main(["toy", "a"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "bug in cryomorph" in err


def test_debug_shows_every_traceback(toy, capsys, monkeypatch):
    monkeypatch.setenv("CRYOMORPH_DEBUG", "1")
    toy.error = InputError("wrong")
    assert main(["toy", "a"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: wrong\n")


def test_a_reader_that_left_is_no_error():
    """`cryomorph --help | head`: the pipe's other end is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "cryomorph.cli.main", "--help"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == b""


def test_a_full_disk_of_standard_output_is_said():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with full.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "cryomorph.cli.main"], stdout=out, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert b"no space left" in done.stderr


def test_help_imports_nothing_heavy():
    """The overview must answer at once: numpy, torch, tyro, rich and the like wait for a command."""
    heavy = ["numpy", "torch", "tyro", "rich", "pydantic", "pandas", "typing_extensions"]
    code = (
        "import sys; from cryomorph.cli.main import main; main(['--help']);"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", ["prepare", "train linear"])
def test_help_of_a_command_does_not_import_torch(words):
    argv = [*words.split(), "--help"]
    code = f"import sys; from cryomorph.cli.main import main; main({argv}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
