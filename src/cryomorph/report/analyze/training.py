"""The section on a training by epochs: its curves, its refined poses, and its linear start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from cryomorph.diagnostics.training_record import TrainingRecord
from cryomorph.report.page import Block, Figure, Section, Table
from cryomorph.report.training_plots import half_sets_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def training_section(
    record: TrainingRecord, plot: Drawing, *, linear_start: Float[np.ndarray, " q"] | None = None
) -> Section:
    """How a training went.

    Args:
        plot: the figure of `training_plots.training_plot`.
        linear_start: agreement between half sets of the linear model that the training started from.
    """
    blocks: list[Block] = [
        Figure(
            plot,
            "Left: misfit per Fourier coefficient, noise included; for a perfect model and well-known noise it is 1. "
            "Held-out particles are never used to train the network, so their curve is the one to judge by: where it "
            "rises while the training curve falls, the model is fitting noise. The held-out curve counts all "
            "frequencies and the KL divergence from the prior, the training curve only the band of its epoch: compare "
            "their trends, not their values. Right: how much the images say about each latent coordinate. At 0 the "
            "coordinate is unused; a flat line is a coordinate that stays as the linear method left it.",
            "Loss and divergence by epoch",
            vector=True,
            wide=True,
        )
    ]
    if record.poses:
        blocks.append(_pose_table(record))
    if linear_start is not None:
        blocks.append(
            Figure(
                half_sets_plot(linear_start),
                "The linear model from which the training started, fitted to each half of the particles separately: "
                "the evidence that there is variability to model. It concerns the linear components only; the network "
                "was trained once, on all particles, and its own coordinates have no such test.",
                "Agreement between half sets for each component of the linear start",
                vector=True,
            )
        )
    return Section("Training", tuple(blocks), "How the network was trained, and what it started from.")


def _pose_table(record: TrainingRecord) -> Table:
    columns = ("rotation_deg_prior", "rotation_deg_median", "shift_pixel_prior", "shift_pixel_median")
    return Table(
        (
            "after epoch",
            "rotation: prior width (°)",
            "rotation: median change (°)",
            "shift: prior width (px)",
            "shift: median change (px)",
        ),
        tuple((str(row["round"]), *(float(row[name]) for name in columns)) for row in record.poses),
        "Refined poses compared with the input poses. The prior width is the pose error about each axis, estimated "
        "from all particles; the median change is how far particles were moved. Small widths mean that the input poses "
        "were right; widths that keep growing mean that model and poses drift together.",
    )
