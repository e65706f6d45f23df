"""The linear subspace: the fit, and the stage that other methods start from."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.config.console import progress
from cryomorph.config.linear import LinearConfig
from cryomorph.config.training import ResolvedMethod
from cryomorph.latents.joint_em import Located
from cryomorph.latents.linear_fit import (
    HalfState,
    LinearFit,
    Schedule,
    fit_halves,
    growing_radii,
    merge_and_finish,
)
from cryomorph.latents.nuisance import NuisancePrior, Nuisances
from cryomorph.particles.store import ParticleStore
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.runs.corrections import OFFSET, with_contrast, with_corrected
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.latents import CONTRAST, LATENT_SPLIT, LOG_LIKELIHOOD
from cryomorph.training.consensus import Consensus, correct_consensus
from cryomorph.training.linear_start import LinearStart, first_targets
from cryomorph.training.session import Session
from cryomorph.volumes.grid import lowpass
from cryomorph.volumes.masks import auto_mask, read_mask, spherical_mask

MASK_LOWPASS_A = 20.0
MASK_THRESHOLD = 0.05  # of the maximum of the low-passed consensus
CHECKPOINT = "checkpoints/linear.safetensors"
DEVIATION = "nuisance_deviation"  # of contrasts, rotations and shifts, as the fit learnt them


def linear(session: Session[ResolvedMethod]) -> None:
    """Fit the linear subspace; without a latent space it is the consensus alone."""
    config, consensus = session.config, session.consensus
    if not config.zdim:
        nothing = torch.zeros(len(session.store), 0)
        session.linear = LinearStart(LinearSubspace(consensus.map[None]), nothing, nothing)
        session.targets = first_targets(session.linear, 0, seed=config.seed)
        return
    path = session.run.linear_start
    with session.parallel.rank_zero_first():
        if not path.is_file():
            fit = fit_subspace(session.run, session.store, session.consensus, config=linear_options(config))
            save_fit(session.run, fit, contrast=config.contrast)
            kept = {"maps": fit.maps, "mean": fit.latent_mean, "std": fit.latent_std}
            if not config.fix_poses:
                kept[OFFSET] = fit.nuisances.offset
            kept |= {DEVIATION: fit.prior.tensor(), "variance": fit.variance}
            save_tensors(path, kept | {"reproducibility": fit.reproducibility})
    tensors = load_tensors(path)[0]
    session.linear = LinearStart(LinearSubspace(tensors["maps"]), tensors["mean"], tensors["std"])
    session.store = with_contrast(session.run.path, with_corrected(session.run.path, session.store))
    session.targets = first_targets(session.linear, config.zdim, seed=config.seed)
    if DEVIATION in tensors:
        with session.parallel.rank_zero_first():
            session.consensus = correct_consensus(session.run, session.store)


def save_fit(run: RunFolder, fit: LinearFit, *, contrast: bool) -> None:
    """Write what a fit says of each particle besides its latent point and its pose."""
    if contrast:
        run.save_array(CONTRAST, fit.nuisances.contrast.numpy())
    run.save_array(LATENT_SPLIT, torch.cat([fit.latent_mean[None], fit.latent_split]).numpy())
    run.save_array(LOG_LIKELIHOOD, fit.log_likelihood.numpy())


def linear_options(config: ResolvedMethod) -> LinearConfig:
    """Options of the linear stage of another method."""
    return LinearConfig(
        config.particles,
        config.output,
        zdim=config.linear_zdim,
        max_radius=config.linear_radius,
        mask=config.mask,
        contrast=config.contrast,
        fix_poses=config.fix_poses,
        seed=config.seed,
    )


def fit_subspace(run: RunFolder, store: ParticleStore, consensus: Consensus, *, config: LinearConfig) -> LinearFit:
    """Fit a subspace to each half set, compare them, merge them; every step is kept, so that a killed run resumes."""
    begin = perf_counter()
    schedule = linear_schedule(store, consensus, config=config)

    def after_half_step(state: HalfState, likelihood: float) -> None:
        found = state.located.nuisances
        kept = {"maps": state.maps, "z": state.located.z, "nuisances": found.value, "variance": found.variance}
        kept["priors"] = torch.stack([prior.tensor() for prior in state.priors])
        save_tensors(run.path / CHECKPOINT, kept, step=str(state.step))
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
    """Subspaces of the half sets of some particles, fitted independently except for the consensus."""
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
    store: ParticleStore, consensus: Consensus, *, config: LinearConfig, warm: bool = False
) -> Schedule:
    """Band limits, iterations, noise and mask of a linear fit.

    Args:
        warm: whether the fit starts from a subspace: one iteration, at the final band limit only.
    """
    last = min(store.box // 2, config.max_radius)
    noise = consensus.noise_power
    mask = heterogeneity_mask(config.mask, consensus.map, store.pixel_A)
    return Schedule(
        radii=(last,) if warm else growing_radii(last),
        iterations=1 if warm else config.iterations,
        final_iterations=config.final_iterations,
        mean_precision=consensus.precision / noise,
        whitening=noise.rsqrt()[store.disk.shell],
        mask=mask,
        mean_mask=mask if config.mask == "sphere" else torch.maximum(mask, density_mask(consensus.map, store.pixel_A)),
        nuisances=nuisance_prior(config),
        seed=config.seed,
    )


def nuisance_prior(config: LinearConfig) -> NuisancePrior:
    """The deviations that a fit starts from, 0 of what it takes as given."""
    start, refined = NuisancePrior(), not config.fix_poses
    return NuisancePrior(
        contrast=start.contrast if config.contrast else 0.0,
        rotation_rad=start.rotation_rad if refined else 0.0,
        shift_px=start.shift_px if refined else 0.0,
    )


def heterogeneity_mask(option: str, consensus: Float32[Tensor, "z y x"], pixel_A: float) -> Float32[Tensor, "z y x"]:
    """The mask of a linear fit: a file, the inscribed sphere, or the surroundings of the consensus's density.

    A mask keeps the noise outside it out of the latent space: compared with the sphere it raised kNN R^2 from 0.851 to
    0.89 on two swinging arms at SNR 0.05 (benchmarks/mask.py). The low threshold keeps parts that few particles have,
    the margin leaves room to move.

    Raises:
        InputError: a mask that does not fit the box, or with values beyond 0 and 1.
    """
    box = len(consensus)
    if option == "sphere":
        return spherical_mask(box, 0.84 * box / 2, 0.16 * box / 2)
    return density_mask(consensus, pixel_A) if option == "auto" else read_mask(Path(option), box, pixel_A, quiet=True)


def density_mask(consensus: Float32[Tensor, "z y x"], pixel_A: float) -> Float32[Tensor, "z y x"]:
    """The surroundings of the consensus's density, within the sphere that all views see."""
    box = len(consensus)
    low = lowpass(consensus, pixel_A, max(MASK_LOWPASS_A, 3 * pixel_A))
    inside = auto_mask(low, pixel_A, threshold=MASK_THRESHOLD * float(low.max()))
    return inside * spherical_mask(box, 0.84 * box / 2, 0.16 * box / 2)


def _last_state(run: RunFolder) -> HalfState | None:
    path = run.path / CHECKPOINT
    if not path.is_file():
        return None
    tensors, facts = load_tensors(path)
    if "z" not in tensors:  # of a version that estimated no nuisances
        return None
    run.log(f"resumed after step {facts['step']}")
    located = Located(tensors["z"], Nuisances(tensors["nuisances"], tensors["variance"]))
    first, second = (NuisancePrior(*row) for row in tensors["priors"].tolist())
    return HalfState(int(facts["step"]), torch.as_tensor(tensors["maps"]), located, (first, second))
