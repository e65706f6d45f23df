"""The one form that every check takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["good", "info", "warning", "missing"]
"""`good` can be relied on, `info` is judged by the reader, `warning` asks for caution, `missing` was not measured."""

NOTHING = "\N{EN DASH}"
"""The value of what was not measured."""
LISTED = 12  # values that are listed one by one


@dataclass(frozen=True)
class Check:
    """What was measured, what is expected, and what follows, each as a reader sees it.

    `meaning` is a sentence: what the verdict means, or what to do. A `headline` belongs into a report's summary even
    where nothing is wrong; warnings are always there.
    """

    name: str
    value: str
    expected: str
    verdict: Verdict
    meaning: str
    headline: bool = False


def not_measured(name: str, expected: str, advice: str) -> Check:
    """A check that could not be made, and how to make it possible."""
    return Check(name, NOTHING, expected, "missing", advice)


def named(kind: str, numbers: Sequence[int]) -> str:
    """`component 1`, `components 1 and 2`, `components 1, 2 and 3`."""
    *most, last = (str(number) for number in numbers)
    return f"{kind}{'s' * bool(most)} {', '.join(most)} and {last}" if most else f"{kind} {last}"


def signed(number: float) -> str:
    """Two decimals with a typographic minus sign."""
    return f"{number:.2f}".replace("-", "\N{MINUS SIGN}")
