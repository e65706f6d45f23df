"""A page for each command, made of its own `--help` when the site is built."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

from sphinx.application import Sphinx

from cryomorph.cli.commands import COMMANDS
from cryomorph.cli.main import main

FOLDER = "reference/commands"


def help_of(words: str) -> str:
    """What `cryomorph WORDS --help` prints, without the frames around its panels."""
    said = io.StringIO()
    with redirect_stdout(said):
        status = main([*words.split(), "--help"])
    if status:
        raise RuntimeError(f"`cryomorph {words} --help` ends with {status}")
    return "\n".join(plain(said.getvalue().splitlines()))


def plain(lines: list[str]) -> Iterator[str]:
    """Lines of help without frames, which are drawn with lines or, in a plain terminal, with dashes."""
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        bare = line.strip("│╭╮╰╯─ ")
        if ("--" in below and not below.strip("- ")) or line.startswith("╭"):
            yield f"{bare}:"
        elif bare.strip("-") or not line.strip():
            yield line.strip("│").rstrip()


def page(words: str, summary: str) -> str:
    """A page of Markdown."""
    return f"# {words}\n\n{summary}\n\n```text\n{help_of(words).strip()}\n```\n"


def methods_of(name: str) -> list[str]:
    """The methods that a command's overview lists."""
    listed = help_of(name).partition("Methods:\n")[2].partition("\n\n")[0]
    return [line.split()[0] for line in listed.splitlines()]


def write_pages(app: Sphinx) -> None:
    """Write a page for every command, and for every method of `train`."""
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    pages = {}
    for name, command in COMMANDS.items():
        pages[name] = page(name, command.summary)
        for method in methods_of(name):
            pages[f"{name}-{method}"] = page(f"{name} {method}", "")
    for old in set(folder.glob("*.md")) - {folder / f"{name}.md" for name in pages}:
        old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for its sources."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
