"""The report's panel on how far to trust a run: what was measured, what is to be expected, and what follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cryomorph.analysis.landscape.embedding import ENOUGH
from cryomorph.analysis.neighbours import SMALLEST_COUNT
from cryomorph.diagnostics.training_record import TrainingRecord, Verdict
from cryomorph.report.comparison import ALIKE, latents_agree
from cryomorph.report.findings import components
from cryomorph.report.left_in_run import FoundComparison, FoundLandscape
from cryomorph.report.page import DASH, Note, Section, Table
from cryomorph.report.plots import REPRODUCIBLE
from cryomorph.report.states import STATE, MappedState
from cryomorph.report.training import LEVEL, course

LISTED = 12  # coordinates whose numbers are told one by one
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Evidence:
    """A row of the panel."""

    measured: str
    value: str
    expected: str
    verdict: Note


def trust_section(rows: Sequence[Evidence]) -> Section:
    """The panel."""
    cells = tuple((row.measured, row.value, row.expected, row.verdict) for row in rows)
    return Section(
        "How far to trust it",
        (
            Table(
                ("measured", "value", "to be expected", "verdict"),
                cells,
                "Caution: outside of what is to be expected. Note: no bound holds for every set; judge by what stands "
                "beside it. All of it is about these images: what is wrong with the poses, the CTF or the "
                "choice of particles can pass every test here.",
            ),
        ),
        "What a reader of these results should ask first.",
    )


def half_sets(reproducibility: Float[np.ndarray, " q"] | None, *, start: bool) -> Evidence:
    """Agreement of half sets on each component.

    Args:
        start: whether it is about the linear model that the training started from.
    """
    name = "Half sets agree on each component" + (" of the linear start" if start else "")
    expected = f"{REPRODUCIBLE} or more each"
    if reproducibility is None:
        text = "This run was fitted once. `cryomorph train linear` on the same particles fits half sets apart."
        return Evidence(name, DASH, expected, Note(text, "missing"))
    good = reproducibility >= REPRODUCIBLE
    if len(good) > LISTED:
        value = f"{int(good.sum())} of {len(good)}; lowest {max(reproducibility.min(), 0):.2f}"
    else:
        value = ", ".join(f"{one:.2f}" for one in reproducibility.clip(min=0))
    tail = " The network itself was fitted once." if start else ""
    if good.all():
        text = "All of them are in both halves of the particles."
        return Evidence(name, value, expected, Note(text + tail, "good"))
    bad = components(np.flatnonzero(~good) + 1)
    which = "of the start " if start else ""
    text = f"Do not interpret {bad} {which}".rstrip() + ": what one half shows, the other does not."
    return Evidence(name, value, expected, Note(text + tail, "warning"))


def checked(verdicts: Sequence[Verdict]) -> list[Evidence]:
    """What the model was asked: scale, sign, collapse, leak of the view."""
    return [
        Evidence(
            one.name,
            one.found.replace("-", MINUS),
            one.expected,
            Note(one.meaning, "good" if one.sound else "warning"),
        )
        for one in verdicts
    ]


def held_out(record: TrainingRecord | None) -> Evidence:
    """The course of the loss of particles that were kept aside."""
    name, expected = "Held-out loss", f"level at the end: the last epoch below {LEVEL:.0%} of the descent"
    if record is None:
        text = "The run has no record of epochs. The linear method keeps nothing aside: its half sets are the test."
        return Evidence(name, DASH, expected, Note(text, "missing"))
    if not np.isfinite(record.held_out).any():
        text = "No particles were kept aside: train with --held-out 0.05."
        return Evidence(name, DASH, expected, Note(text, "missing"))
    told = np.flatnonzero(np.isfinite(record.held_out))
    last, best = told[-1], told[record.held_out[told].argmin()]
    value = f"{record.held_out[last]:.4f} after epoch {record.epoch[last]}"
    if record.held_out[last] > record.held_out[best]:
        value += f"; lowest {record.held_out[best]:.4f} after epoch {record.epoch[best]}"
    end = course(record)
    advice = ": the model learns noise since then; train for fewer epochs" if end.level == "warning" else ""
    return Evidence(name, value, expected, Note(f"{end.text}{advice}.", end.level))


def placed(found: FoundLandscape | Note) -> Evidence:
    """How well a particle's place in volume space is predicted from its latent point."""
    name, expected = "Places in volume space, held-out R²", f"{ENOUGH} or more"
    if isinstance(found, Note):
        return Evidence(name, DASH, expected, Note(found.text, "missing"))
    value = f"{found.r2:.4f} of {found.held_out} maps"
    if found.r2 >= ENOUGH:
        return Evidence(name, value, expected, Note("States and coordinates are those of the model's maps.", "good"))
    text = "Too little to place single particles: `cryomorph landscape` with more --pairs, or a smoother model."
    return Evidence(name, value, expected, Note(text, "warning"))


def clusters_agree(resolutions_A: Sequence[float], consensus_A: float) -> Evidence:
    """Decoded against reconstructed maps at the clusters' centres.

    Args:
        resolutions_A: where the FSC of each pair falls below 0.5; none where nothing was reconstructed.
        consensus_A: the same of the consensus's half maps.
    """
    name = "Decoded and reconstructed maps of the clusters"
    expected = f"the consensus's own half maps: {consensus_A:.1f} Å (FSC 0.5)"
    if not len(resolutions_A):
        return Evidence(name, DASH, expected, Note("Analyse without --no-reconstruct.", "missing"))
    low, middle, high = np.percentile(resolutions_A, [0, 50, 100])
    value = f"agree to {middle:.1f} Å (FSC 0.5; median of {len(resolutions_A)}, {low:.1f} to {high:.1f})"
    text = "Where particles are too few, a map reconstructed near a point falls back to the consensus, which flatters."
    return Evidence(name, value, expected, Note(text))


def states_agree(mapped: Mapping[int, MappedState], found: FoundLandscape | Note) -> Evidence:
    """Decoded against reconstructed maps of the states, held against the consensus.

    Args:
        mapped: the states that were reconstructed.
    """
    name = "Decoded and reconstructed maps of the states"
    expected = "above the consensus, near what is possible"
    if isinstance(found, Note):
        return Evidence(name, DASH, expected, Note(found.text, "missing"))
    if not mapped:
        enough = max(found.particles) >= SMALLEST_COUNT
        text = "Analyse without --no-reconstruct." if enough else "No state has particles enough for a map."
        return Evidence(name, DASH, expected, Note(text, "missing"))
    at = np.median([one.decoded.resolution_05_A for one in mapped.values()])
    decoded, possible, consensus = (
        float(np.mean([one.agreement[which].mean_fsc for one in mapped.values()]))
        for which in (STATE, "ceiling", "consensus")
    )
    value = (
        f"mean FSC {decoded:.2f}, agree to {at:.1f} Å (FSC 0.5; median of {len(mapped)} states); "
        f"possible {possible:.2f}, consensus {consensus:.2f}"
    )
    below = [state for state, one in mapped.items() if one.decoded.mean_fsc <= one.agreement["consensus"].mean_fsc]
    if not below:
        text = "For each of them the model's map says more of the particles than the map of all particles does."
        return Evidence(name, value, expected, Note(text, "good"))
    which = f"state{'s' if len(below) > 1 else ''} {', '.join(map(str, below))}"
    text = (
        f"The map of all particles agrees with those of {which} as well as the model's does, which a large state "
        "brings about, or a model that is wrong there: look at the maps."
    )
    return Evidence(name, value, expected, Note(text, "warning"))


def smallest(counts: Sequence[int], kind: str, mapped: Mapping[int, MappedState]) -> Evidence:
    """Whether the smallest state or cluster has particles enough for a map.

    Args:
        counts: particles in each.
        kind: what they are: `state` or `cluster`.
        mapped: the states that were reconstructed.
    """
    which = int(np.argmin(counts))
    value = f"{counts[which]:,} particle{'s' * (counts[which] != 1)} ({kind} {which})"
    if kind == "state" and which in mapped:
        value += f", half maps agree to {mapped[which].fsc.resolution_0143_A:.1f} Å (FSC 0.143)"
    expected = f"{SMALLEST_COUNT} or more: with fewer, chance decides"
    few = [number for number, count in enumerate(counts) if count < SMALLEST_COUNT]
    if not few:
        return Evidence(f"Smallest {kind}", value, expected, Note("Enough for a map of their own.", "good"))
    named = f"{kind}{'s' if len(few) > 1 else ''} {', '.join(map(str, few))}"
    text = f"No map can confirm {named}: rare, junk, or cut off from a neighbour."
    return Evidence(f"Smallest {kind}", value, expected, Note(text, "warning"))


def second_run(found: FoundComparison | Note) -> Evidence:
    """What another run on the same particles says."""
    name = "A second run says the same"
    expected = f"R² of one latent from the other above {ALIKE}"
    if isinstance(found, Note):
        return Evidence(name, DASH, expected, found)
    value = f"R² {found.r2[0]:.2f} and {found.r2[1]:.2f}"
    if found.maps is not None:
        value += f"; maps at the same particles: mean FSC {found.maps[0]:.2f}, at others {found.maps[1]:.2f}"
    if found.one_latent:
        text = "Both runs hold the same latent points, from one stage that they share: their agreement says nothing."
        return Evidence(name, value, expected, Note(text, "warning"))
    level = latents_agree(min(found.r2))
    text = {
        "good": "Both runs found the same landscape.",
        "info": "The runs agree in part.",
        "warning": "The runs found different landscapes: do not interpret what only one of them shows.",
    }[level]
    return Evidence(name, value, expected, Note(text, level))
