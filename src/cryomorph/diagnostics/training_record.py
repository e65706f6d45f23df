"""What a run recorded while it was trained, by step (metrics.jsonl) and by epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from cryomorph.config.console import warn
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.metrics import METRICS

Row = dict[str, Any]


@dataclass(frozen=True)
class TrainingRecord:
    """A training by epoch; NaN where nothing was measured.

    `loss` (training particles, the epoch's band, without divergence) and `held_out` (held-out particles, the whole
    band, with divergence) are per coefficient. `kl` is in nats, `band` in Fourier pixels.
    """

    epoch: Int64[np.ndarray, " e"]
    loss: Float64[np.ndarray, " e"]
    held_out: Float64[np.ndarray, " e"]
    kl: Float64[np.ndarray, "e q"]
    band: Float64[np.ndarray, " e"]
    skipped: int = 0
    poses: tuple[Row, ...] = ()

    @property
    def band_grew_at(self) -> list[int]:
        """Epochs at which the band limit grew: from there on losses count more coefficients."""
        return [int(now) for now, step in zip(self.epoch[1:], np.diff(self.band), strict=True) if step > 0]

    @property
    def deciding_loss(self) -> Float64[np.ndarray, " e"]:
        """The loss that decides when to stop: that of held-out particles where there are any."""
        return self.held_out if np.isfinite(self.held_out).any() else self.loss


def linear_objective(rows: list[Row]) -> Float64[np.ndarray, " steps"] | None:
    """Negative log-likelihood of a linear fit by step; None where there are fewer than two steps."""
    # a resumed run records the steps that it repeats twice
    steps = list({row["step"]: -row["log_likelihood"] for row in rows if row.get("stage") == "linear"}.values())
    return np.array(steps) if len(steps) > 1 else None


def read_training(run: RunFolder) -> TrainingRecord | None:
    """A run's training by epoch; None, with a warning where that is so because metrics.jsonl is damaged."""
    try:
        return training_record(run.metrics())
    except (KeyError, TypeError, ValueError, IndexError) as error:
        warn(f"{run.path / METRICS} is damaged ({error!r}): what it says of the training is left out")
        return None


def training_record(rows: list[Row]) -> TrainingRecord | None:
    """A training by epoch, averaged over the images of each; None where nothing was trained by epochs."""
    # a resumed run records the steps that it repeats twice; a row at the end of an epoch may have measured nothing
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
