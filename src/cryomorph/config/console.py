"""Messages and progress bars: messages through the standard `logging`, progress bars where someone asked for them.

Everything is logged under the name `cryomorph`. The command line calls `attach_console`; a library user sees nothing
until they configure logging or call `show_progress`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

T = TypeVar("T")

LOGGER = logging.getLogger("cryomorph")
YELLOW, PLAIN = "\x1b[33m", "\x1b[0m"

_bars = SimpleNamespace(shown=False)


class ConsoleHandler(logging.Handler):
    """Writes each message as a line on standard error, warnings marked as such (yellow on a terminal).

    Rich is not needed for that, and costs a tenth of a second to import; while it draws a bar it takes over standard
    error, so that lines appear above the bar.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        line = record.getMessage()
        if record.levelno >= logging.WARNING:
            line = f"warning: {line}"
            if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
                line = f"{YELLOW}{line}{PLAIN}"
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def attach_console() -> None:
    """Show messages and progress bars on standard error, as the command line does; a second call changes nothing."""
    if not any(isinstance(handler, ConsoleHandler) for handler in LOGGER.handlers):
        LOGGER.addHandler(ConsoleHandler())
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False  # a library that configures the root logger would have every line appear twice
    show_progress()


def show_progress(*, on: bool = True) -> None:
    """Show progress bars on a terminal or in a notebook, or stop showing them."""
    _bars.shown = on


@lru_cache(maxsize=1)
def console() -> Console:
    """The console that bars are drawn on, made when it is first needed."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Log one line for the user."""
    LOGGER.info("%s", message, stacklevel=2)


def warn(message: str) -> None:
    """Log one warning."""
    LOGGER.warning("%s", message, stacklevel=2)


@contextmanager
def progress(description: str, total: int | float) -> Iterator[Callable[[int | float, str], None]]:
    """One bar for work of many unequal parts; what is given advances it by an amount and says what is being done."""
    if not progress_shown():
        yield lambda amount, doing: None
        return
    from rich.progress import TaskProgressColumn

    with _bar(TaskProgressColumn()) as bar:
        task = bar.add_task(description, total=total)

        def advance(amount: int | float, doing: str) -> None:
            bar.update(task, advance=amount, description=doing)

        yield advance


def track(items: Iterable[T], description: str, *, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar that shows the count, the rate's estimate of the time left, and the time taken.

    Args:
        total: how many items, where `items` has no length.
    """
    if not progress_shown():
        yield from items
        return
    from rich.progress import MofNCompleteColumn

    with _bar(MofNCompleteColumn()) as bar:
        yield from bar.track(items, total=total, description=description)


def progress_shown() -> bool:
    """Whether bars were asked for and can be drawn.

    In a file or a batch system's log a bar would be a heap of lines: what was done is said when it is done.
    """
    return _bars.shown and (console().is_terminal or console().is_jupyter)


def _bar(done: ProgressColumn) -> Progress:
    """A bar that shows what is done in its own way, and the times; it goes when the work is over."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), done, *times)
    return Progress(*columns, console=console(), transient=True)
