"""Ctrl-C and the wish of a batch system that a command ends: what is done, at whatever moment they come."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from cryomorph.io.begun import WRITING

WORDS = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}


class Stop:
    """Watches for signals that stop the command.

    Until the first file is written nothing is on disk that would have to be put in order, and libraries are still being
    imported: an exception out of a half-finished import could be anything, and through the start of a library in C++ it
    ends in a core dump. The process ends at once. From then on `KeyboardInterrupt` is raised, so that what is open is
    closed, and every error that follows is one of being stopped.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def watch(self) -> None:
        """Take over the signals of this process."""
        for number in WORDS:
            signal.signal(number, self._stop)

    @property
    def said(self) -> tuple[str, int]:
        """How the command was stopped, in a word, and its exit status."""
        return WORDS[self.signal or signal.SIGINT]

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if WRITING.is_set():
            raise KeyboardInterrupt
        word, status = self.said
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{word}: nothing was written\n".encode())
        os._exit(status)
