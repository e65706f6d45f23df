"""A command line as the function that it asks for and that function's config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from cryomorph import __version__
from cryomorph.cli.commands import COMMANDS, Command, overview
from cryomorph.config.errors import InputError

MOST_SEED = 2**31


def parse(argv: list[str]) -> tuple[str, Any] | None:
    """The command's function (`module:function`) and its config; None where the question is answered already."""
    if argv and argv[0] == "help":
        argv = [*argv[1:], "--help"]
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
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
    return command.runner, _options(load(command.config), f"cryomorph {name}", command, rest)


def _parse_method(name: str, command: Command, rest: list[str]) -> tuple[str, Any] | None:
    """The same for a command whose first word is a method."""
    methods: dict[str, Any] = load("cryomorph.config.methods:methods")()
    if not rest or rest[0] in ("-h", "--help"):
        print(method_overview(name, command, methods))
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

    rest = _present_names(rest, option_names(kind))
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
    object.__setattr__(config, "output", tyro.MISSING)  # a frozen config; -o must be given again
    return config


def option_names(kind: Any) -> set[str]:
    """The options of a config by name, with `-` between words; parts of a config have theirs among them."""
    names: set[str] = set()
    for name, hint in get_type_hints(kind).items():
        part = get_origin(hint) or hint
        names |= option_names(part) if is_dataclass(part) else {name.replace("_", "-")}
    return names


def _present_names(rest: list[str], known: set[str]) -> list[str]:
    """The same words with options that were renamed since the last version under their present names, and said so."""
    from cryomorph.config.console import warn
    from cryomorph.config.renamed import OPTIONS

    words = []
    for word in rest:
        option, equals, value = word.partition("=")
        name = option.removeprefix("--").replace("_", "-")
        new = OPTIONS.get(name)
        if option.startswith("--") and new in known and name not in known:
            warn(f"--{name} is now --{new}: the old name will go")
            word = f"--{new}{equals}{value}"
        words.append(word)
    return words


def load(reference: str) -> Any:
    """The object that `module:name` says."""
    module, name = reference.split(":")
    return getattr(import_module(module), name)


def method_overview(name: str, command: Command, methods: dict[str, Any]) -> str:
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
