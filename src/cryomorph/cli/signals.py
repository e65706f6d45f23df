"""Ctrl-C and the wish of a batch system that a command ends: what is done, at whatever moment they come."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

WORDS = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}


class Stop:
    """Watches for signals that stop the command.

    Until `running`, while Python is still importing, nothing is on disk that would have to be put in order, and an
    exception out of a half-finished import could be anything: the process ends at once. From then on
    `KeyboardInterrupt` is raised, so that what is open is closed, and every error that follows is one of being stopped.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._running = False

    def watch(self) -> None:
        """Take over the signals of this process."""
        for number in WORDS:
            signal.signal(number, self._stop)

    def running(self) -> None:
        """From now on there may be something to put in order."""
        self._running = True

    @property
    def said(self) -> tuple[str, int]:
        """How the command was stopped, in a word, and its exit status."""
        return WORDS[self.signal or signal.SIGINT]

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if self._running:
            raise KeyboardInterrupt
        word, status = self.said
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{word}: nothing was begun\n".encode())
        os._exit(status)
