"""What the user reads: lines as they were written, on standard error, and a bar only where one can be drawn."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest
from rich.console import Console

from cryomorph.config import console as module
from cryomorph.config.console import attach_console, progress, say, show_progress, track, warn


@pytest.fixture
def drawn(monkeypatch):
    """A console for the bars: returns a function that makes it, as a terminal or not, and its text so far."""

    def make(*, terminal):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, highlight=False, soft_wrap=True, width=80)
        monkeypatch.setattr(module, "console", lambda: console)
        return file.getvalue

    return make


def test_lines_are_written_as_they_are_on_standard_error(capsys):
    say("shape [b 3 3] of [red]particles[/red] in /a/b.star, 100 % :cat: %s")
    warn("row 3 [0-based]")
    say("x" * 300)
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.splitlines() == [
        "shape [b 3 3] of [red]particles[/red] in /a/b.star, 100 % :cat: %s",
        "warning: row 3 [0-based]",
        "x" * 300,
    ]


def test_warnings_are_yellow_on_a_terminal_alone(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    warn("old file")
    assert capsys.readouterr().err == "\x1b[33mwarning: old file\x1b[0m\n"
    monkeypatch.setenv("NO_COLOR", "1")
    warn("old file")
    assert capsys.readouterr().err == "warning: old file\n"


def test_the_console_is_attached_once(capsys):
    attach_console()
    attach_console()
    say("said")
    assert capsys.readouterr().err == "said\n"


def test_messages_are_the_standard_library_s_records(monkeypatch):
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    monkeypatch.setattr(module.LOGGER, "handlers", [handler])
    say("one")
    warn("two")
    assert [(r.name, r.levelname, r.getMessage()) for r in records] == [
        ("cryomorph", "INFO", "one"),
        ("cryomorph", "WARNING", "two"),
    ]


def test_a_library_user_sees_nothing_unless_they_ask():
    script = """
import logging, cryomorph
from cryomorph.config.console import say, track, warn
say("one"); warn("two"); list(track(range(3), "bar"))
logging.basicConfig(level="INFO")
say("three")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "" and done.stderr == "INFO:cryomorph:three\n"


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("total", [None, 5])
def test_every_item_comes_through(drawn, terminal, total):
    text = drawn(terminal=terminal)
    items = range(5) if total is None else iter(range(5))
    assert list(track(items, "reading", total=total)) == list(range(5))
    assert ("reading" in text() and "5/5" in text()) == terminal
    assert terminal or text().strip() == ""


@pytest.mark.parametrize("on", [True, False])
def test_bars_are_drawn_for_who_asks(drawn, on):
    text = drawn(terminal=True)
    show_progress(on=on)
    with progress("fitting", total=2) as advance:
        advance(2, "fitted")
    assert ("fitted" in text()) == on


def test_an_error_inside_the_loop_is_not_swallowed(drawn):
    drawn(terminal=True)
    with pytest.raises(ValueError, match="inside"):
        for number in track(range(3), "reading"):
            if number == 1:
                raise ValueError("inside")
