"""Images that are unlike the others of their optics group: far too bright or dark, or with a hot pixel."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float64, Int64

from cryomorph.io.atomic import atomic_path
from cryomorph.particles.table import StarTable

if TYPE_CHECKING:
    from cryomorph.particles.metadata import Particles

OUTLIERS = "image_outliers.csv"
SMALLEST_GROUP = 20  # of images; smaller optics groups are judged among all images
MOST_SPREADS = 8.0
LEAST_EXTREME = 8.0  # deviations of the image: noise of any box stays below
SMALLEST = 1e-30


@dataclass(frozen=True)
class Outlier:
    """An image that is unlike the others: what of it, its value, and between what the others' values lie."""

    image: int
    reason: str
    value: float
    low: float
    high: float


def image_outliers(
    records: np.ndarray, group: Int64[np.ndarray, " n"], good: Bool[np.ndarray, " n"]
) -> dict[str, list[Outlier]]:
    """Images that are far from the median of their optics group, by reason.

    An image is named once: for its extreme pixel (in units of its own deviation), else its standard deviation, else its
    mean (in units of the deviation that is usual). Far is beyond 8 times 1.4826 median absolute deviations.

    Args:
        records: `ImageStatistics.read`.
        group: optics group of each image.
        good: images that can be used; others are not judged.
    """
    usual = np.ones(len(records))
    for members, reference in _groups(group, good):
        usual[members] = np.median(records["deviation"][reference])
    quantities = {
        "extreme pixel": (records["extreme"].astype(np.float64), 0.05, LEAST_EXTREME),
        "standard deviation": (np.log(records["deviation"].clip(SMALLEST).astype(np.float64)), 0.02, -np.inf),
        "mean": (records["mean"] / usual, 0.002, -np.inf),
    }
    left = good.copy()
    found = {}
    for reason, (values, least_spread, least_high) in quantities.items():
        those: list[Outlier] = []
        for members, reference in _groups(group, good):
            low, high = _limits(values[reference], least_spread)
            high = max(high, least_high)
            far = members[left[members] & ((values[members] < low) | (values[members] > high))]
            those += [Outlier(i, reason, *_shown(reason, float(values[i]), low, high)) for i in far.tolist()]
        left[[outlier.image for outlier in those]] = False
        if those:
            found[reason] = those
    return found


def _shown(reason: str, *values: float) -> tuple[float, ...]:
    """A quantity as it is written: deviations are compared by their logarithms."""
    return tuple(float(np.exp(value)) for value in values) if reason == "standard deviation" else values


def _limits(values: Float64[np.ndarray, " k"], least_spread: float) -> tuple[float, float]:
    middle = float(np.median(values))
    spread = max(1.4826 * float(np.median(np.abs(values - middle))), least_spread)
    return middle - MOST_SPREADS * spread, middle + MOST_SPREADS * spread


def _groups(
    group: Int64[np.ndarray, " n"], good: Bool[np.ndarray, " n"]
) -> Iterator[tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " m"]]]:
    """Images to be judged, and those that they are compared with: their optics group, or all where it is small."""
    usable = np.flatnonzero(good)
    order = usable[np.argsort(group[usable], kind="stable")]
    small: list[np.ndarray] = []
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(members) >= SMALLEST_GROUP:
            yield members, members
        else:
            small.append(members)
    if small and len(usable):
        yield np.concatenate(small), usable


def optics_groups(particles: Particles) -> Int64[np.ndarray, " n"]:
    """A number for each particle's optics group (cryoSPARC: exposure group), from 0; all 0 where there are none."""
    table, name = particles.table, "ctf/exp_group_id"
    if isinstance(table, StarTable) and "rlnOpticsGroup" in table.particles:
        labels = table.particles["rlnOpticsGroup"].to_numpy(dtype=str)
    elif isinstance(table, np.ndarray) and name in (table.dtype.names or ()):
        labels = table[name]
    else:
        return np.zeros(len(particles), np.int64)
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)


def summary(found: dict[str, list[Outlier]], n: int, path: Path) -> str | None:
    """One sentence for the user; None where no image is unlike the others."""
    count = sum(map(len, found.values()))
    if not count:
        return None
    reasons = ", ".join(f"{len(those)} by the {reason}" for reason, those in found.items())
    return (
        f"{count} of {n} images {'is' if count == 1 else 'are'} unlike the others ({reasons}): none is left out, "
        f"{path} lists them"
    )


def write_outliers(
    path: Path, found: dict[str, list[Outlier]], particles: Particles, *, kept: Int64[np.ndarray, " k"]
) -> None:
    """Write a table: each particle's number in the store, its row in the source, its image, and what is unusual.

    Args:
        kept: the particles that the store holds, in its order.
    """
    number = np.full(len(particles), -1)
    number[kept] = np.arange(len(kept))
    with atomic_path(path) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["particle", "row", "image", "reason", "value", "usual_from", "usual_to"])
        for one in sorted((one for those in found.values() for one in those), key=lambda outlier: outlier.image):
            image = f"{particles.image_of[one.image] + 1}@{particles.stacks[particles.stack_of[one.image]].name}"
            figures = (f"{value:.6g}" for value in (one.value, one.low, one.high))
            table.writerow([number[one.image], particles.row[one.image], image, one.reason, *figures])
