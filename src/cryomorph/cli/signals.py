"""Ctrl-C and the wish of a batch system that a command ends: what is done, at whatever moment they come."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

AGAIN = 0.02  # seconds after which it is seen whether an import is done
WORDS = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}


class Stop:
    """Watches for signals that stop the command.

    Until `running`, while Python is still importing, nothing is on disk that would have to be put in order, and an
    exception out of a half-finished import could be anything: the process ends at once. From then on
    `KeyboardInterrupt` is raised, so that what is open is closed, and every error that follows is one of being stopped.
    Commands import more while they run: there it is raised as soon as the import is done, since an exception that
    passes through the start of a library in C++ ends the process with a core dump.
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
        if number in WORDS:
            self.signal = signal.Signals(number)
        if self._running:
            if _importing(frame):
                signal.signal(signal.SIGALRM, self._stop)
                signal.setitimer(signal.ITIMER_REAL, AGAIN)
                return
            raise KeyboardInterrupt
        word, status = self.said
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{word}: nothing was begun\n".encode())
        os._exit(status)


def _importing(frame: FrameType | None) -> bool:
    """Whether the code that a signal came upon is part of an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
