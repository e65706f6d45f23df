"""New particles under a trained model: prepared, encoded in its latent space, kept as a run of their own."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.compute.device import choose_device
from cryomorph.config.encode import EncodeConfig
from cryomorph.config.errors import InputError
from cryomorph.encoders.base import Encoder
from cryomorph.encoders.table import TableEncoder
from cryomorph.latents.empirical_bayes import empirical_bayes_posterior
from cryomorph.latents.encode import LinearPoints, encode_amortised, encode_by_gradient, locate_jointly
from cryomorph.latents.nuisance import NuisancePrior
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.models.registry import encoder_from, encoder_kinds, network_kind
from cryomorph.particles.store import ParticleStore
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.checkpoint import load_tensors
from cryomorph.runs.corrections import corrected_pose
from cryomorph.runs.folder import RunFolder
from cryomorph.runs.image_noise import NOISE
from cryomorph.runs.latents import CONTRAST, LATENT_SPLIT, LOG_LIKELIHOOD
from cryomorph.training.consensus import correct_consensus, measure_noise, noise_whitening, reconstruct_consensus
from cryomorph.training.linear_start import LinearStart
from cryomorph.training.stages.finish import write_poses
from cryomorph.training.stages.linear import DEVIATION
from cryomorph.training.start import check_paths, start_run, take_particles

NEIGHBOURS = 15
SAME_PIXEL = 1e-3
Latents = tuple[Float32[Tensor, "n q"], Float32[Tensor, "n q"]]


def encode_particles(config: EncodeConfig) -> RunFolder:
    """Encode particles with a run's model; returns their run.

    Raises:
        InputError: particles of another box or pixel size, a run without a latent space, or a folder in use.
    """
    begin = perf_counter()
    trained = RunFolder.open(config.run)
    representation = trained.representation()
    before = trained.store()
    if not representation.zdim:
        raise InputError(f"{config.run} has no latent space (--zdim 0): every particle has the same map")
    if trained.model_facts().get("encoder") in ("table", "foreign") and not trained.linear_start.is_file():
        raise InputError(
            f"{trained.path} has no encoder network and no {trained.linear_start.name}: it cannot encode particles"
        )
    check_paths(config)
    if not config.particles.is_dir() and config.images.box is None:
        config = replace(config, images=replace(config.images, box=before.box))

    def accept(store: ParticleStore) -> None:
        if store.box != before.box or abs(store.pixel_A / before.pixel_A - 1) > SAME_PIXEL:
            raise InputError(
                f"{config.particles}: box {store.box} at {store.pixel_A:.4g} A per pixel, expected those of the model, "
                f"{before.box} at {before.pixel_A:.4g}: resample the images"
            )

    with start_run(config, trained.config()["method"], symmetry=trained.symmetry) as run:
        store = take_particles(run, config, accept)
        noise = trained.config().get("training", {}).get("noise") or "radial"
        consensus = reconstruct_consensus(run, store)
        if (trained.path / NOISE).is_file():
            store = measure_noise(run, store)
            consensus = consensus.whitened(store.require_noise())
        whitening = noise_whitening(store, consensus, noise)
        linear = _linear_model(trained)
        points = _locate(store, linear, whitening) if linear else None
        if points is not None and DEVIATION in linear:
            store = _keep_corrections(run, store, points, NuisancePrior(*linear[DEVIATION].tolist()))
        device = choose_device(config.device)
        if isinstance(representation, LinearSubspace) and points is not None:
            mean, std = points.mean, points.std
        else:
            mean, std = _trained_latents(trained, store, linear, points, whitening=whitening, device=device)
        run.save_latent(mean.cpu(), std.cpu())
        own = set(representation.state_dict())
        extra = {name: value for name, value in trained.model_tensors().items() if name not in own}
        facts = trained.model_facts()
        run.save_model(representation, extra, encoder=facts.get("encoder", ""), latents=facts.get("latents", ""))
        run.log(f"{len(store)} particles encoded by {config.run}; {perf_counter() - begin:.1f} s")
    return run


def _linear_model(trained: RunFolder) -> dict[str, Tensor]:
    """The linear model of a run: its own, or that of the stage that it started from; nothing where it has none."""
    if trained.linear_start.is_file():
        return load_tensors(trained.linear_start)[0]
    found = trained.model_tensors()
    if "maps" not in found:
        return {}
    return found | {"mean": _tensor(trained.latent_mean()), "std": _tensor(trained.latent_std())}


def _locate(store: ParticleStore, linear: dict[str, Tensor], whitening: Float32[Tensor, " size"]) -> LinearPoints:
    """Where the linear model finds the particles, with the nuisances that it was fitted with."""
    prior = NuisancePrior(*linear[DEVIATION].tolist()) if DEVIATION in linear else NuisancePrior.fixed()
    start = LinearStart(LinearSubspace(linear["maps"]), linear["mean"], linear["std"])
    return locate_jointly(store, start.subspace, start.prior_std, whitening=whitening, nuisances=prior)


def _keep_corrections(
    run: RunFolder, store: ParticleStore, points: LinearPoints, prior: NuisancePrior
) -> ParticleStore:
    """Write what was found of each particle; the particles with it."""
    run.save_array(LATENT_SPLIT, torch.cat([points.mean[None], points.split]).numpy())
    run.save_array(LOG_LIKELIHOOD, points.log_likelihood.numpy())
    if prior.contrast:
        run.save_array(CONTRAST, points.nuisances.contrast.numpy())
        store = store.with_contrast(points.nuisances.contrast)
    if prior.rotation_rad or prior.shift_px:
        pose = corrected_pose(store, points.nuisances.offset)
        write_poses(run, store, pose)
        store = store.with_pose(pose)
    correct_consensus(run, store)
    return store


def _trained_latents(
    trained: RunFolder,
    store: ParticleStore,
    linear: dict[str, Tensor],
    points: LinearPoints | None,
    *,
    whitening: Float32[Tensor, " size"],
    device: torch.device,
) -> Latents:
    """In the way of the run itself: by its encoder network, by its linear stage, or by Gauss-Newton."""
    tensors, facts = trained.model_tensors(), trained.model_facts()
    everything, landscape = torch.arange(len(store)), _tensor(trained.latent_mean())
    encoder: Encoder
    if facts.get("encoder") in encoder_kinds():
        encoder = encoder_from(facts["encoder"], tensors)
    elif points is None:
        raise RuntimeError(f"{trained.path} has neither an encoder network nor a linear model")
    else:
        linear_mean, linear_std = points.mean, points.std
        moved = bool(trained.config().get("training", {}).get("latent_rate"))
        if facts.get("latents") == "table" and linear_mean.shape[1] == landscape.shape[1] and not moved:
            return empirical_bayes_posterior(linear_mean, linear_std, tensors["prior_std"], support=linear["mean"])
        start = _interpolated(linear_mean, linear["mean"], landscape)
        encoder = TableEncoder(start, torch.ones_like(start))
    representation = trained.representation()
    model = Heterogeneous(representation, encoder, prior_std=tensors["prior_std"], whitening=whitening)
    model = model.to(device).eval().requires_grad_(False)
    if network_kind(encoder):
        return encode_amortised(model, store, everything)
    mean, std = encode_by_gradient(model, store, everything, half_precision=False)
    return empirical_bayes_posterior(mean.cpu(), std.cpu(), tensors["prior_std"], support=landscape)


def _interpolated(
    points: Float32[Tensor, "n q"], known: Float32[Tensor, "k q"], latent: Float32[Tensor, "k zdim"]
) -> Float32[Tensor, "n zdim"]:
    """Points of the linear space in the trained one, interpolated between the run's own particles."""
    from sklearn.neighbors import KNeighborsRegressor

    regressor = KNeighborsRegressor(min(NEIGHBOURS, len(known)), weights="distance")
    return _tensor(regressor.fit(known.numpy(), latent.numpy()).predict(points.numpy()))


def _tensor(array: object) -> Float32[Tensor, "n q"]:
    return torch.as_tensor(array, dtype=torch.float32)
