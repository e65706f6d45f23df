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
from cryomorph.latents.encode import encode_amortised, encode_by_gradient, linear_latents
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.models.registry import encoder_from, encoder_kinds, network_kind
from cryomorph.particles.store import ParticleStore
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.checkpoint import load_tensors
from cryomorph.runs.folder import RunFolder
from cryomorph.training.consensus import noise_whitening, reconstruct_consensus
from cryomorph.training.linear_start import LinearStart
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
        whitening = noise_whitening(store, reconstruct_consensus(run, store), noise)
        device = choose_device(config.device)
        if isinstance(representation, LinearSubspace):
            mean, std = _tensor(trained.latent_mean()), _tensor(trained.latent_std())
            tensors = {"maps": representation.maps, "mean": mean, "std": std}
            mean, std = _linear_latents(store, tensors, whitening)
        else:
            mean, std = _trained_latents(trained, store, whitening, device)
        run.save_latent(mean.cpu(), std.cpu())
        own = set(representation.state_dict())
        extra = {name: value for name, value in trained.model_tensors().items() if name not in own}
        facts = trained.model_facts()
        run.save_model(representation, extra, encoder=facts.get("encoder", ""), latents=facts.get("latents", ""))
        run.log(f"{len(store)} particles encoded by {config.run}; {perf_counter() - begin:.1f} s")
    return run


def _trained_latents(
    trained: RunFolder, store: ParticleStore, whitening: Float32[Tensor, " size"], device: torch.device
) -> Latents:
    """In the way of the run itself: by its encoder network, by its linear stage, or by Gauss-Newton."""
    tensors, facts = trained.model_tensors(), trained.model_facts()
    everything, landscape = torch.arange(len(store)), _tensor(trained.latent_mean())
    encoder: Encoder
    if facts.get("encoder") in encoder_kinds():
        encoder = encoder_from(facts["encoder"], tensors)
    else:
        linear = load_tensors(trained.linear_start)[0]
        linear_mean, linear_std = _linear_latents(store, linear, whitening)
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


def _linear_latents(store: ParticleStore, linear: dict[str, Tensor], whitening: Float32[Tensor, " size"]) -> Latents:
    start = LinearStart(LinearSubspace(linear["maps"]), linear["mean"], linear["std"])
    return linear_latents(store, start.subspace, start.prior_std, whitening=whitening)


def _interpolated(
    points: Float32[Tensor, "n q"], known: Float32[Tensor, "k q"], latent: Float32[Tensor, "k zdim"]
) -> Float32[Tensor, "n zdim"]:
    """Points of the linear space in the trained one, interpolated between the run's own particles."""
    from sklearn.neighbors import KNeighborsRegressor

    regressor = KNeighborsRegressor(min(NEIGHBOURS, len(known)), weights="distance")
    return _tensor(regressor.fit(known.numpy(), latent.numpy()).predict(points.numpy()))


def _tensor(array: object) -> Float32[Tensor, "n q"]:
    return torch.as_tensor(array, dtype=torch.float32)
