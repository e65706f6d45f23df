"""What a person reads when a command fails: one sentence, or a traceback where the fault is ours; the exit status."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

from cryomorph import __version__
from cryomorph.config.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)


def explain(error: Exception, config: Any) -> int:
    """Say what an error means to the user, where it is theirs to correct; a traceback where the fault is ours."""
    if isinstance(error, InputError):
        return fail(f"error: {error}", 2)
    if isinstance(error, BrokenPipeError) and _reader_left():
        return 141
    if _disk_is_full(error):
        where = getattr(error, "filename", None) or getattr(config, "output", None) or Path.cwd()
        return fail(f"error: no space left on the disk of {where}: free some and run the same command again", 1)
    if isinstance(error, OSError) and error.filename is not None:
        return fail(f"error: {os.fsdecode(error.filename)}: {(error.strerror or 'cannot be used').lower()}", 2)
    return fail(f"error: this is a bug in cryomorph {__version__}: please report the lines above", 1, trace=True)


def explain_stop(error: BaseException, word: str, status: int) -> int:
    """Say that a command was stopped, and what is left of it: the last that was noted on the way out.

    Args:
        word: how it was stopped.
    """
    noted = getattr(error, "__notes__", ["finished files are kept, nothing half-written was left behind"])
    return fail(f"{word}: {noted[-1]}", status)


def fail(sentence: str, status: int, *, trace: bool = False) -> int:
    """Say what went wrong on standard error and pass the exit status on."""
    if trace or os.environ.get("CRYOMORPH_DEBUG", "") not in ("", "0"):
        from traceback import print_exc

        print_exc()
    print(sentence, file=sys.stderr)
    return status


def _disk_is_full(error: Exception) -> bool:
    """Whether the disk (or the quota) is full, as Python, numpy and safetensors say it."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    text = str(error)
    # numpy's tofile gives no errno, safetensors its own exception
    short_write = isinstance(error, OSError) and error.errno is None and " requested and " in text and "written" in text
    return short_write or "No space left on device" in text


def _reader_left() -> bool:
    """Whether standard output goes nowhere any more (`cryomorph ... | head`); if so, make its last flush harmless."""
    import select

    try:
        out = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file at all
        return False
    poll = select.poll()
    poll.register(out, 0)
    left = any(event & select.POLLERR for _, event in poll.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return left
