"""Text files as people's programs and editors write them, and lists of image stacks."""

from __future__ import annotations

import codecs
from pathlib import Path

from cryomorph.config.errors import InputError

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """The text of a file, with line ends as `\\n` and without the byte order mark that some editors put first.

    Bytes that are not UTF-8 become surrogates, so that `errors="surrogateescape"` writes them as they were.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not text.
    """
    raw = path.read_bytes()
    if raw.startswith(UTF_16):
        text = raw.decode("utf-16")
    else:
        text = raw.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")
    if "\0" in text:
        raise ValueError("it is a binary file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_stack_list(path: str | Path) -> list[str]:
    """The paths that a text file lists, as written; blank lines and lines that start with '#' are left out.

    Raises:
        InputError: the file cannot be read as text, or lists nothing.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in read_text(path).split("\n")]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as text ({error}): give a file with one stack's path a line"
        ) from error
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise InputError(f"{path} lists no stack: expected one path of an .mrcs file a line")
    return names
