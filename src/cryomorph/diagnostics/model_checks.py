"""What a model is asked before it is believed, of runs whose training did not ask it (METHODS 0 and 3)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from cryomorph.config.console import track
from cryomorph.diagnostics.training_record import Verdict, judged, read_checks
from cryomorph.models.checks import IMAGES, SAMPLE, scale_of_maps, sign_of_maps, spread_over, view_r2
from cryomorph.particles.loader import ParticleLoader
from cryomorph.representations.linear import rebox
from cryomorph.runs.checks import Checks
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.fsc import half_map_fsc, resolution_A


def model_verdicts(run: RunFolder, relative_std: Float[np.ndarray, "n q"]) -> tuple[Verdict, ...]:
    """What the run's checks.json says; asked now where it has none, as after `train linear`, `encode` and `import`.

    Args:
        relative_std: posterior standard deviations in units of each coordinate's own spread.
    """
    told = read_checks(run.path / "checks.json")
    if told:
        return told
    found = measure(run, relative_std)
    return judged(found.scale, found.sign, found.kl, view_r2=found.view_r2)


def measure(run: RunFolder, relative_std: Float[np.ndarray, "n q"]) -> Checks:
    """Scale, sign, divergence and leak of the view, as `runs.checks.Checks` says, of particles spread over the run.

    The divergence is that from each coordinate's own spread: `-mean log` of the relative standard deviation.
    """
    store, model, mean = run.store(), run.representation(), torch.from_numpy(run.latent_mean())
    loader = ParticleLoader(store, 64, subset=spread_over(len(store), IMAGES))
    sample = spread_over(len(store), SAMPLE)
    return Checks(
        scale_of_maps(model, ((batch, mean[batch.index]) for batch in loader), disk=store.disk),
        sign_of_maps(model, mean, run.consensus_map()),
        (-np.log(np.maximum(relative_std, 1e-12)).mean(axis=0)).tolist(),
        view_r2(mean[sample].numpy(), store.require_pose().rotation[sample, 2].numpy()),
    )


def resolutions_05_A(
    run: RunFolder, decoded: Float32[Tensor, "k z y x"], reconstructed: Float32[Tensor, "k zr yr xr"]
) -> list[float]:
    """Where the FSC of each decoded map with the one reconstructed at its place falls below 0.5, in Angstrom.

    Inside the consensus's mask and corrected for it; decoded maps of another box are resampled, and those of a smaller
    one agree to their own pixel at best.
    """
    box, pixel_A, mask = reconstructed.shape[-1], run.store().pixel_A, run.consensus_map("mask")
    finest_A = 2 * box * pixel_A / min(box, decoded.shape[-1])
    pairs = track(zip(decoded, reconstructed, strict=True), "comparing maps", total=len(decoded))
    curves = (half_map_fsc(rebox(map, box), other, mask, pixel_A=pixel_A).best for map, other in pairs)
    return [max(resolution_A(curve, pixel_A, 0.5, box=box), finest_A) for curve in curves]
