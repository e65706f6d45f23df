"""Check of an ab initio map: did independent random starts come to the same structure?

docs/methods.md, "Ab initio".
"""

from __future__ import annotations

from collections.abc import Sequence

from cryomorph.abinit.initial_model import MIN_INFORMATIVE_NATS
from cryomorph.diagnostics.check import Check, not_measured

NAME = "Independent random starts"
EXPECTED = "at least two with the same structure"
CRUDE = 5  # nats an image below which a map may be right at its lowest resolution only


def starts_check(log_likelihood: Sequence[float], agreeing: int) -> Check:
    """Whether the best start explains held-out images, and whether others came to the same structure.

    Args:
        log_likelihood: of each start on held-out images, above that of noise, in nats an image.
        agreeing: starts that came to the structure of the best, itself among them.
    """
    count, best = len(log_likelihood), max(log_likelihood)
    value = f"{agreeing} of {count} came to this structure; the best explains held-out images by {best:.1f} nats each"
    if best < MIN_INFORMATIVE_NATS:
        return Check(
            NAME,
            value,
            EXPECTED,
            "warning",
            "No random start explains held-out images better than noise does: there is no map to trust. The particles "
            "show too little at low resolution, or there are none: look at 2D class averages of these images.",
        )
    if count == 1:
        return not_measured(NAME, EXPECTED, "There was only one random start: whether another would agree is unknown.")
    if agreeing > 1:
        text = (
            f"{agreeing} of {count} independent random starts came to this structure, and the best explains images it "
            f"has not seen by {best:.3g} nats each. Below about {CRUDE} nats a map may be right only at its lowest "
            "resolution."
        )
        return Check(NAME, value, EXPECTED, "good", text)
    text = (
        f"No two of {count} random starts came to the same structure: this map is one guess among several. Use more "
        "--start-images, a lower --start-radius, or cleaner particles."
    )
    return Check(NAME, value, EXPECTED, "warning", text)


def no_starts_check() -> Check:
    """Of a recipe that begins at one random network."""
    text = (
        "One network was trained from one random start: whether another would come to the same structure is unknown. "
        "Run it again with another --seed, or without --recipe paper, and align the maps with `cryomorph align`."
    )
    return not_measured(NAME, EXPECTED, text)
