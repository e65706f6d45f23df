"""The Gaussians of a run whose positions change, and the regions of the molecule that masks select."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from cryomorph.analysis.motions.paths import FileFrame
from cryomorph.config.errors import InputError
from cryomorph.representations.gaussian_motion import POSITIONS
from cryomorph.representations.gaussians import Gaussians
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.masks import mask_at, read_mask


def moving_gaussians(run: RunFolder) -> Gaussians:
    """The Gaussians of a run.

    Raises:
        InputError: the run is of another method, has no latent space, or its Gaussians keep their places.
    """
    model = run.representation()
    if not isinstance(model, Gaussians):
        method = run.config().get("method", "another method")
        raise InputError(
            f"{run.path} was trained by {method}: motions are those of Gaussians, of `cryomorph train gaussians`; "
            "`cryomorph traverse` shows the maps of any run along its components"
        )
    if model.zdim == 0:
        raise InputError(f"{run.path} has no latent space (--zdim 0): nothing moves")
    if POSITIONS not in model.shape.changes:
        kinds = " and ".join(model.shape.changes)
        raise InputError(f"{run.path} lets only {kinds} change: expected a run whose positions do (--change positions)")
    return model


def region_shares(paths: Sequence[Path], model: Gaussians, frame: FileFrame) -> Float64[np.ndarray, "r n"]:
    """How far each neutral Gaussian belongs to each mask's region.

    Raises:
        InputError: a mask that does not fit the box, or one that holds no Gaussian, or all.
    """
    position = model.neutral.position[0].detach()
    found = []
    for path in paths:
        share = mask_at(frame.map(read_mask(path, frame.box, frame.pixel_A)), position).numpy()
        inside = int((share > 0.5).sum())
        if not 0 < inside < len(position):
            which = "none" if not inside else "all"
            raise InputError(
                f"{path} holds {which} of the {len(position)} Gaussians: expected a mask around a part of the molecule"
            )
        found.append(share)
    return np.stack(found)
