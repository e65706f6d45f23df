"""How the program speaks to its user: plain lines and progress bars on standard error, results on standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

T = TypeVar("T")


@lru_cache(maxsize=1)
def console() -> Console:
    """The one console, made when it is first needed."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Print one line for the user; brackets are text, not markup."""
    console().print(message, markup=False)


def warn(message: str) -> None:
    """Print one warning."""
    console().print(f"warning: {message}", style="yellow", markup=False)


@contextmanager
def progress(description: str, total: int | float) -> Iterator[Callable[[int | float, str], None]]:
    """One bar for work of many unequal parts; what is given advances it by an amount and says what is being done."""
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
    from rich.progress import MofNCompleteColumn

    with _bar(MofNCompleteColumn()) as bar:
        yield from bar.track(items, total=total, description=description)


def _bar(done: ProgressColumn) -> Progress:
    """A bar that shows what is done in its own way, and the times; it goes when the work is over."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    # in a file or a batch system's log a bar would be a heap of lines: what was done is said when it is done
    quiet = not console().is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), done, *times)
    return Progress(*columns, console=console(), transient=True, disable=quiet)
