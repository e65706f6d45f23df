"""What the user reads: lines as they were written, on standard error, and a bar only where one can be drawn."""

import io

import pytest
from rich.console import Console

from cryomorph.config import console as module
from cryomorph.config.console import say, track, warn


@pytest.fixture
def written(monkeypatch):
    """A console of its own: returns a function that makes it, as a terminal or not, and its text so far."""

    def make(*, terminal):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, highlight=False, soft_wrap=True, width=80)
        monkeypatch.setattr(module, "console", lambda: console)
        return file.getvalue

    return make


def test_lines_are_written_as_they_are(written):
    text = written(terminal=False)
    say("shape [b 3 3] of [red]particles[/red] in /a/b.star")
    warn("row 3 [0-based]")
    say("x" * 300)
    assert text() == f"shape [b 3 3] of [red]particles[/red] in /a/b.star\nwarning: row 3 [0-based]\n{'x' * 300}\n"


def test_lines_go_to_standard_error(capsys):
    module.console.cache_clear()
    say("said")
    module.console.cache_clear()
    seen = capsys.readouterr()
    assert seen.err == "said\n" and seen.out == ""


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("total", [None, 5])
def test_every_item_comes_through(written, terminal, total):
    text = written(terminal=terminal)
    items = range(5) if total is None else iter(range(5))
    assert list(track(items, "reading", total=total)) == list(range(5))
    assert ("reading" in text() and "5/5" in text()) == terminal
    assert terminal or text().strip() == ""


def test_an_error_inside_the_loop_is_not_swallowed(written):
    written(terminal=True)
    with pytest.raises(ValueError, match="inside"):
        for number in track(range(3), "reading"):
            if number == 1:
                raise ValueError("inside")
