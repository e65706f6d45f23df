"""Text files that list image stacks, one path a line."""

from __future__ import annotations

from pathlib import Path

from cryomorph.config.errors import InputError


def read_stack_list(path: str | Path) -> list[str]:
    """The paths that a text file lists, as written; blank lines and lines that start with '#' are left out.

    Raises:
        InputError: the file cannot be read as text, or lists nothing.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as text ({error}): give a file with one stack's path a line"
        ) from error
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise InputError(f"{path} lists no stack: expected one path of an .mrcs file a line")
    return names
