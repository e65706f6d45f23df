"""What a run wrote down while it was trained, by epoch, and what it was asked afterwards."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from cryomorph.runs.checks import COLLAPSED, LEAK, SCALES

Row = dict[str, Any]


@dataclass(frozen=True)
class TrainingRecord:
    """A training by epoch; nan where nothing was measured.

    `loss` and `held_out` are per coefficient: of particles trained on, over the epoch's band and without divergence; of
    particles held out, over the whole band and with it. `kl` (epochs, q) is in nats, `band` in Fourier pixels.
    """

    epoch: Int64[np.ndarray, " e"]
    loss: Float64[np.ndarray, " e"]
    held_out: Float64[np.ndarray, " e"]
    kl: Float64[np.ndarray, "e q"]
    band: Float64[np.ndarray, " e"]
    skipped: int = 0
    poses: tuple[Row, ...] = ()

    @property
    def grew_before(self) -> list[int]:
        """Epochs whose band is larger than that of the epoch before: their losses count more coefficients."""
        return [int(now) for now, step in zip(self.epoch[1:], np.diff(self.band), strict=True) if step > 0]

    @property
    def telling(self) -> Float64[np.ndarray, " e"]:
        """The loss that says when to stop: that of held-out particles where there are any."""
        return self.held_out if np.isfinite(self.held_out).any() else self.loss


@dataclass(frozen=True)
class Verdict:
    """One check in words: what it is, what was found, what is expected, and what that means, or what to do."""

    name: str
    found: str
    expected: str
    sound: bool
    meaning: str


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl, without the last line of a killed run that is cut off; none without the file."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            rows.append(dict(json.loads(line)))
        except ValueError:
            continue
    return rows


def linear_objective(rows: list[Row]) -> Float64[np.ndarray, " steps"] | None:
    """Negative log-likelihood of a linear fit by step, or None where there are fewer than two."""
    # a resumed run tells a step that it did again twice
    steps = list({row["step"]: -row["log_likelihood"] for row in rows if row.get("stage") == "linear"}.values())
    return np.array(steps) if len(steps) > 1 else None


def training_record(rows: list[Row]) -> TrainingRecord | None:
    """A training by epoch, averaged over the images of each; None where nothing was trained by epochs."""
    # a resumed run tells a step that it did again twice; a row at the end of an epoch may have measured nothing
    told = {(row["epoch"], row["step"]): row for row in rows if row.get("stage") == "joint" and "nll" in row}
    if not told:
        return None
    epochs = sorted({epoch for epoch, _ in told})
    closed = {row["epoch"]: row["held_out"] for row in rows if row.get("stage") == "epoch"}
    poses = {row["round"]: row for row in rows if row.get("stage") == "poses"}
    loss, kl, band = [], [], []
    for epoch in epochs:
        mine = [row for (number, _), row in told.items() if number == epoch]
        weight = np.array([max(row["images"] - len(row.get("skipped_images", ())), 1) for row in mine], dtype=float)
        loss.append(float(np.average([row["nll"] for row in mine], weights=weight)))
        kl.append(np.average(np.array([row["kl"] for row in mine], dtype=float), axis=0, weights=weight))
        band.append(float(mine[-1].get("band", math.nan)))
    return TrainingRecord(
        np.array(epochs, dtype=np.int64),
        np.array(loss),
        np.array([float(closed.get(epoch, math.nan)) for epoch in epochs]),
        np.stack(kl),
        np.array(band),
        sum(int(row.get("skipped", 0)) for row in told.values()),
        tuple(poses[number] for number in sorted(poses)),
    )


def read_checks(path: Path) -> tuple[Verdict, ...]:
    """What a checks.json says, in words; nothing without the file."""
    if not path.is_file():
        return ()
    given = json.loads(path.read_text())
    return judged(given["scale"], given["sign"], given["kl"], view_r2=given["view_r2"])


def judged(scale: float, sign: float, kl: list[float], *, view_r2: float) -> tuple[Verdict, ...]:
    """The numbers of `runs.checks.Checks` as verdicts."""
    flat = [number for number, value in enumerate(kl, 1) if value < COLLAPSED]
    told = f"{min(kl):.2f} to {max(kl):.2f} nats" if len(kl) > 1 else " ".join(f"{value:.2f} nats" for value in kl)
    if 0 < len(flat) < len(kl):
        told += f"; unused: {', '.join(map(str, flat))}"
    sound, used = SCALES[0] <= scale <= SCALES[1], not kl or len(flat) < len(kl)
    return (
        Verdict(
            "Scale of the maps",
            f"{scale:.2f}",
            f"{SCALES[0]} to {SCALES[1]}",
            sound,
            "The maps fit the images as they are."
            if sound
            else f"The images fit the maps best when these are multiplied by {scale:.2f}: train for longer, or look at "
            "the contrast of the particles.",
        ),
        Verdict(
            "Correlation with the consensus",
            f"{sign:.2f}",
            "above 0",
            sign > 0,
            "The map at the mean latent point has the consensus's sign."
            if sign > 0
            else f"The map at the mean latent point correlates with the consensus by {sign:.2f}: do not believe this "
            "model.",
        ),
        Verdict(
            "Divergence from the prior",
            told,
            f"some above {COLLAPSED}",
            used,
            "The images tell particles apart."
            if used
            else "Posterior collapse: no latent coordinate tells particles apart. Lower --beta, or the particles are "
            "alike.",
        ),
        Verdict(
            "View predicted from the latent",
            f"R² {view_r2:.2f}",
            f"at most {LEAK}",
            view_r2 <= LEAK,
            "The latent space does not hold the direction of view."
            if view_r2 <= LEAK
            else f"The latent space predicts the viewing direction (R² {view_r2:.2f}): a part of what it shows is the "
            "view, not the molecule.",
        ),
    )
