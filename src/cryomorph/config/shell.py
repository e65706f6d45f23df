"""Commands as messages suggest them."""

from __future__ import annotations

import shlex


def command(*words: object) -> str:
    """A command that can be pasted into a shell: words with blanks and the like are quoted."""
    return shlex.join(map(str, words))
