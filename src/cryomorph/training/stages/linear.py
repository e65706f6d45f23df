"""The stages that recipes are made of: particles, consensus, linear subspace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.config.console import progress
from cryomorph.config.linear import LinearConfig
from cryomorph.latents.linear_fit import (
    HalfState,
    LinearFit,
    Schedule,
    fit_halves,
    growing_radii,
    merge_and_finish,
)
from cryomorph.particles.store import ParticleStore
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.volumes.backproject import Reconstruction, reconstruct, residual_noise
from cryomorph.volumes.grid import lowpass
from cryomorph.volumes.masks import auto_mask, read_mask, spherical_mask

MASK_LOWPASS_A = 20.0
MASK_THRESHOLD = 0.05  # of the low-passed consensus's highest density
CHECKPOINT = "checkpoints/linear.safetensors"


@dataclass(frozen=True)
class Consensus:
    """What later stages take from the consensus: the map, the prior's precision and the noise by shell."""

    map: Float32[Tensor, "z y x"]
    precision: Float32[Tensor, " shells"]
    noise: Float32[Tensor, " shells"]

    @classmethod
    def of(cls, result: Reconstruction, store: ParticleStore) -> Consensus:
        """What is left of a reconstruction of a store's particles."""
        return cls(result.map, result.precision, residual_noise(store, result))

    @classmethod
    def unknown(cls, store: ParticleStore) -> Consensus:
        """What is known before there is a map: noise as it is outside the particle."""
        nothing = torch.zeros(store.box // 2 + 1)
        return cls(torch.zeros(store.box, store.box, store.box), nothing, nothing + 1)

    @property
    def noise_power(self) -> Float32[Tensor, " shells"]:
        """Noise power by shell, in units of the store's.

        What surrounds the particle holds some of its signal and the residual some of its heterogeneity: the lower of
        both is the noise.
        """
        noise = self.noise.clamp(max=1.0)
        noise[0] = noise[1]
        return noise


def consensus_stage(run: RunFolder, store: ParticleStore) -> Consensus:
    """One map of all particles, in half sets, with its FSC and the noise that it leaves."""
    if not run.has_consensus:
        begin = perf_counter()
        result = reconstruct(store, description="consensus")
        run.save_consensus(result, residual_noise(store, result))
        run.log(
            f"consensus: {result.fsc.resolution_0143_A:.2f} A at FSC 0.143, {result.fsc.resolution_05_A:.2f} A at 0.5; "
            f"{perf_counter() - begin:.1f} s"
        )
    spectra = run.spectra()
    return Consensus(run.consensus_map(), spectra["precision"], spectra["noise"])


def linear_stage(run: RunFolder, store: ParticleStore, consensus: Consensus, *, config: LinearConfig) -> LinearFit:
    """The linear subspace: half sets apart, compared, merged; every step is kept, so that a killed run goes on."""
    begin = perf_counter()
    schedule = linear_schedule(store, consensus, config=config)

    def after_half_step(state: HalfState, likelihood: float) -> None:
        save_tensors(run.path / CHECKPOINT, {"maps": state.maps}, step=str(state.step))
        run.record(stage="linear-halves", step=state.step, log_likelihood=likelihood, seconds=perf_counter() - begin)

    def after_step(step: int, likelihood: float) -> None:
        run.record(stage="linear", step=step, log_likelihood=likelihood, seconds=perf_counter() - begin)

    with progress("linear", schedule.work(store)) as advance:
        halves = fit_halves(
            store,
            consensus.map,
            schedule,
            zdim=config.zdim,
            resume=_last_state(run),
            report=after_half_step,
            advance=advance,
        )
        fit = merge_and_finish(store, halves, schedule, report=after_step, advance=advance)
    run.log(f"linear: {config.zdim} components to radius {schedule.radii[-1]}; {perf_counter() - begin:.1f} s")
    return fit


def linear_halves(
    store: ParticleStore, consensus: Consensus, subset: Int64[Tensor, " k"], *, config: LinearConfig
) -> Float32[Tensor, "two c z y x"]:
    """Subspaces of the half sets of some particles, fitted apart from the consensus on."""
    schedule = linear_schedule(store, consensus, config=config)
    work = schedule.work(store, *schedule.half_steps) * len(subset) / len(store)
    with progress("linear", work) as advance:
        return fit_halves(
            store,
            consensus.map,
            schedule,
            zdim=config.zdim,
            subset=subset,
            report=lambda state, likelihood: None,
            advance=advance,
        ).maps


def linear_schedule(
    store: ParticleStore, consensus: Consensus, *, config: LinearConfig, go_on: bool = False
) -> Schedule:
    """Bands, iterations, noise and mask of a linear fit; only a few steps at the last band where one is to `go_on`."""
    last = min(store.box // 2, config.max_radius)
    noise = consensus.noise_power
    return Schedule(
        radii=(last,) if go_on else growing_radii(last),
        iterations=1 if go_on else config.iterations,
        final_iterations=config.final_iterations,
        mean_precision=consensus.precision / noise,
        whitening=noise.rsqrt()[store.disk.shell],
        mask=heterogeneity_mask(config.mask, consensus.map, store.pixel_A),
        estimate_contrast=config.contrast,
        seed=config.seed,
    )


def heterogeneity_mask(asked: str, consensus: Float32[Tensor, "z y x"], pixel_A: float) -> Float32[Tensor, "z y x"]:
    """The mask of a linear fit: a file, the inscribed sphere, or all that is near density of the consensus.

    The noise of everything outside a mask is noise that the latent space does not have: against the sphere, a mask
    raised kNN R^2 from 0.851 to 0.89 on two swinging arms at SNR 0.05 (benchmarks/mask.py). Its low threshold keeps
    parts that few particles have, its margin keeps room to move.

    Raises:
        InputError: a mask of another box, or with values beyond 0 and 1.
    """
    box = len(consensus)
    sphere = spherical_mask(box, 0.84 * box / 2, 0.16 * box / 2)
    if asked == "sphere":
        return sphere
    if asked == "auto":
        low = lowpass(consensus, pixel_A, max(MASK_LOWPASS_A, 3 * pixel_A))
        return auto_mask(low, pixel_A, threshold=MASK_THRESHOLD * float(low.max())) * sphere
    return read_mask(Path(asked), box)


def _last_state(run: RunFolder) -> HalfState | None:
    path = run.path / CHECKPOINT
    if not path.is_file():
        return None
    tensors, facts = load_tensors(path)
    run.log(f"resumed after step {facts['step']}")
    return HalfState(int(facts["step"]), torch.as_tensor(tensors["maps"]))
