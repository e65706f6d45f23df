"""How the program speaks to its user: plain lines and progress bars on standard error, results on standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

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
def progress(description: str, total: float) -> Iterator[Callable[[float, str], None]]:
    """One bar for work of many unequal parts; what is given advances it by an amount and says what is being done."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(), transient=True, disable=not console().is_terminal) as bar:
        task = bar.add_task(description, total=total)

        def advance(amount: float, doing: str) -> None:
            bar.update(task, advance=amount, description=doing)

        yield advance


def track(items: Iterable[T], description: str, *, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar that shows the count, the rate's estimate of the time left, and the time taken.

    Args:
        total: how many items, where `items` has no length.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # in a file or a batch system's log a bar would be a heap of lines: what was done is said when it is done
    quiet = not console().is_terminal
    with Progress(*columns, console=console(), transient=True, disable=quiet) as progress:
        yield from progress.track(items, total=total, description=description)
