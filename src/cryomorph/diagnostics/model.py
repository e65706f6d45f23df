"""Checks of a model: scale and sign of its maps, use of its latent space, independence of the viewing direction.

docs/methods.md, "Likelihood" and "Neural field".
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from cryomorph.config.console import warn
from cryomorph.config.errors import InputError
from cryomorph.diagnostics.check import Check, signed
from cryomorph.models.measure import IMAGES, spread_over
from cryomorph.particles.loader import ParticleLoader
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.measurements import ModelMeasurements, measure

SCALES = (0.8, 1.2)
COLLAPSED = 0.05  # nats: below this the images say nothing about a coordinate
LEAK = 0.1  # held-out R^2 of the viewing direction


def model_checks(found: ModelMeasurements) -> tuple[Check, ...]:
    """All checks of a model."""
    return (
        scale_check(found.scale),
        sign_check(found.sign),
        divergence_check(found.kl),
        view_check(found.view_r2),
    )


def scale_check(scale: float) -> Check:
    """Whether the maps have the amplitude of the images."""
    low, high = SCALES
    good = low <= scale <= high
    return Check(
        "Scale of the maps",
        f"{scale:.2f}",
        f"{low} to {high}",
        "good" if good else "warning",
        "The maps fit the images without rescaling."
        if good
        else f"The maps fit the images best when multiplied by {scale:.2f}: train for longer, or check the contrast of "
        "the particles.",
    )


def sign_check(sign: float) -> Check:
    """Whether the model's map has the sign of the consensus."""
    good = sign > 0
    return Check(
        "Correlation with the consensus",
        signed(sign),
        "above 0",
        "good" if good else "warning",
        "The map at the mean latent point has the sign of the consensus map."
        if good
        else f"The map at the mean latent point has a correlation of {signed(sign)} with the consensus map: do not "
        "trust this model.",
    )


def divergence_check(kl: list[float]) -> Check:
    """Whether the images determine any latent coordinate.

    Args:
        kl: divergence of each coordinate from its prior, in nats.
    """
    unused = [number for number, value in enumerate(kl, 1) if value < COLLAPSED]
    good = not kl or len(unused) < len(kl)
    value = f"{min(kl):.2f} to {max(kl):.2f} nats" if len(kl) > 1 else " ".join(f"{value:.2f} nats" for value in kl)
    if 0 < len(unused) < len(kl):
        value += f"; unused: {', '.join(map(str, unused))}"
    return Check(
        "KL divergence from the prior",
        value,
        f"at least one coordinate above {COLLAPSED} nats",
        "good" if good else "warning",
        "The images determine where particles lie in latent space."
        if good
        else "Posterior collapse: no latent coordinate distinguishes one particle from another. Lower --beta; or the "
        "particles may all be alike.",
    )


def view_check(view_r2: float) -> Check:
    """Whether the latent space encodes the viewing direction in place of the structure."""
    good = view_r2 <= LEAK
    return Check(
        "Viewing direction predicted from the latent space",
        f"R² {signed(view_r2)}",
        f"at most {LEAK}",
        "good" if good else "warning",
        "The latent space does not encode the viewing direction."
        if good
        else f"The latent space predicts the viewing direction (R² {view_r2:.2f}): part of the variability it shows is "
        "the view, not the molecule.",
    )


def warn_about_model(run: RunFolder) -> None:
    """Say, in run.log too, which checks of a model that has just been trained failed."""
    found = ModelMeasurements.read(run.path)
    for check in model_checks(found) if found is not None else ():
        if check.verdict == "warning":
            run.warn(check.meaning)


def measurements_of(run: RunFolder, relative_std: Float[np.ndarray, "n q"]) -> ModelMeasurements:
    """What training measured; measured now where it did not, as after `train linear`, `encode` and `import`.

    Args:
        relative_std: posterior standard deviations in units of each coordinate's own spread.
    """
    try:
        found = ModelMeasurements.read(run.path)
    except InputError as error:
        warn(str(error))
        found = None
    return measure_run(run, relative_std) if found is None else found


def measure_run(run: RunFolder, relative_std: Float[np.ndarray, "n q"]) -> ModelMeasurements:
    """Measure a run's model on particles from all over the run.

    The divergence is that from each coordinate's own spread: `-mean log` of the relative standard deviation.
    """
    store, mean = run.store(), torch.from_numpy(run.latent_mean())
    loader = ParticleLoader(store, 64, subset=spread_over(len(store), IMAGES))
    return measure(
        run.representation(),
        ((batch, mean[batch.index]) for batch in loader),
        store,
        mean=mean,
        kl=(-np.log(np.maximum(relative_std, 1e-12)).mean(axis=0)).tolist(),
        consensus=run.consensus_map(),
    )
