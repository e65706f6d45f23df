"""The linear method: a subspace of maps by probabilistic PCA (docs/methods.md, "Linear subspace")."""

from __future__ import annotations

from cryomorph.config.errors import InputError
from cryomorph.config.linear import LinearConfig
from cryomorph.latents.linear_fit import is_reproducible
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.corrections import corrected_pose, with_contrast
from cryomorph.training.consensus import correct_consensus
from cryomorph.training.session import Method, Session
from cryomorph.training.stages.consensus import consensus, image_noise
from cryomorph.training.stages.finish import write_poses
from cryomorph.training.stages.linear import DEVIATION, fit_subspace, save_fit
from cryomorph.training.start import check_bounds


def check_options(config: LinearConfig) -> None:
    """Refuse options that are out of range."""
    if not 1 <= config.zdim <= 20:
        raise InputError(f"--zdim {config.zdim}: expected 1 to 20")
    least = {
        "iterations": (config.iterations, 1),
        "final-iterations": (config.final_iterations, 1),
        "max-radius": (config.max_radius, 6),
    }
    check_bounds(least, {})


def subspace(session: Session[LinearConfig]) -> None:
    """Fit the subspace and write the run; it is complete after this."""
    run, config = session.run, session.config
    fit = fit_subspace(run, session.store, session.consensus, config=config)
    run.save_latent(fit.latent_mean, fit.latent_std)
    save_fit(run, fit, contrast=config.contrast)
    store = with_contrast(run.path, session.store)
    if not config.fix_poses:
        pose = corrected_pose(session.store, fit.nuisances.offset)
        write_poses(run, session.store, pose)
        store = store.with_pose(pose)
    correct_consensus(run, store)
    run.save_model(
        LinearSubspace(fit.maps),
        {
            "variance": fit.variance,
            "reproducibility": fit.reproducibility,
            DEVIATION: fit.prior.tensor(),
            "split_score": fit.split_score,
        },
    )
    reproducible = int(is_reproducible(fit.reproducibility.numpy()).sum())
    correlations = " ".join(f"{value:.2f}" for value in fit.reproducibility.tolist())
    run.log(f"half sets agree on {reproducible} of {config.zdim} components (correlation {correlations})")


LINEAR = Method[LinearConfig]("linear", {"default": (consensus, image_noise, subspace)}, check=check_options)
