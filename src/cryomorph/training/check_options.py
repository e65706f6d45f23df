"""Checks of the options that all trained methods share, before anything is written."""

from __future__ import annotations

from cryomorph.config.errors import InputError
from cryomorph.config.training import MethodConfig
from cryomorph.training.start import Bounds, check_bounds

MOST_DIMENSIONS = 128


def check_training(
    config: MethodConfig[None], *, table: bool, least: Bounds | None = None, most: Bounds | None = None
) -> None:
    """Refuse options of a training that are out of range, or that have no effect together.

    Args:
        table: whether latent points come from a table.
        least, most: bounds of the method's own options: value and bound by name.

    Raises:
        InputError: such an option.
    """
    plan = config.training
    lower: Bounds = {
        "zdim": (config.zdim, 0),
        "epochs": (plan.epochs, 1),
        "batch-size": (plan.batch_size, 1),
        "learning-rate": (plan.learning_rate, 0),
        "latent-rate": (plan.latent_rate, 0),
        "beta": (plan.beta, 0),
        "first-radius": (plan.first_radius, 2),
        "radius-share": (plan.radius_share, 0),
        "held-out": (plan.held_out, 0),
        "patience": (plan.patience, 0),
        "prior-weight": (plan.prior_weight, 0),
        "pose-spread": (plan.pose_spread, 0),
        "pose-epoch": (plan.pose_epoch, 1),
        "checkpoint-minutes": (plan.checkpoint_minutes, 0),
        "linear-zdim": (config.linear_zdim, min(config.zdim, 1)),
        "linear-radius": (config.linear_radius, 6),
        "warm-steps": (config.warm_steps, 0),
    }
    upper: Bounds = {
        "zdim": (config.zdim, MOST_DIMENSIONS),
        "radius-share": (plan.radius_share, 1),
        "held-out": (plan.held_out, 0.5),
        "latent-rate": (plan.latent_rate, 1),
        "pose-spread": (plan.pose_spread, 30),
        "linear-zdim": (config.linear_zdim, 20),
    }
    check_bounds({**lower, **(least or {})}, {**upper, **(most or {})})
    if config.recipe == "paper" and table:
        raise InputError("--encoder table starts from the linear method, which --recipe paper omits: choose another")
    if plan.prior == "disentangle" and not config.zdim:
        raise InputError("--prior disentangle needs a latent space, and --zdim 0 has none: omit one of them")
    if plan.prior == "disentangle" and table and not plan.latent_rate:
        raise InputError(
            "--prior disentangle moves latent points, and --latent-rate 0 fixes those of a table: give 0.3"
        )
    if plan.final_model == "best" and (not plan.held_out or plan.radius_share == 1):
        raise InputError(
            "--final-model best is chosen by the loss of held-out particles at the full band: give a --held-out above "
            "0 and a --radius-share below 1"
        )
