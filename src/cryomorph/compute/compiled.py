"""Loops compiled by numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled at its first call, and kept for later processes where there is a place for that.

    It runs without Python's lock, so that threads can work at once.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither this package's folder nor the user's cache can be written
        return numba.njit(nogil=True)(function)
