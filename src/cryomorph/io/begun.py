"""Whether this process has begun to write: until then it may be ended at any moment."""

from __future__ import annotations

from threading import Event

WRITING = Event()
"""Set before the first file or folder is made, never cleared."""
