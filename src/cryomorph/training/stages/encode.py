"""The latent points of all particles under the final weights."""

from __future__ import annotations

from copy import deepcopy
from time import perf_counter

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cryomorph.config.training import ResolvedMethod
from cryomorph.encoders.conv import ConvEncoder
from cryomorph.encoders.table import TableEncoder
from cryomorph.latents.empirical_bayes import empirical_bayes_posterior
from cryomorph.latents.encode import encode_amortised, encode_by_gradient
from cryomorph.latents.prediction_gain import LinearReference, prediction_gain
from cryomorph.training.batches import split_held_out
from cryomorph.training.session import Session
from cryomorph.training.stages.finish import finish


def encode(session: Session[ResolvedMethod]) -> None:
    """Estimate the latent point of every particle, and write the run; it is complete after this."""
    model, run, parallel = session.model, session.run, session.parallel
    begin = perf_counter()
    model.eval().requires_grad_(False)
    shard = parallel.shard(torch.arange(len(session.store)))
    if model.poses is not None:
        parallel.all_gather_rows(model.poses.offset)
    if session.config.zdim:
        mean, std = latents(session, shard)
    else:
        mean = std = torch.zeros(len(session.store), 0)
    if parallel.is_rank_zero:
        finish(session, mean.cpu(), std.cpu())
        run.log(f"encode: {perf_counter() - begin:.1f} s")
    parallel.barrier()


def latents(
    session: Session[ResolvedMethod], shard: Int64[Tensor, " k"]
) -> tuple[Float32[Tensor, "n zdim"], Float32[Tensor, "n zdim"]]:
    """Means and standard deviations of all particles, of which this process encodes `shard`."""
    model, store, config = session.model, session.store, session.config
    encoder = model.encoder
    if isinstance(encoder, TableEncoder):
        session.reestimated = by_gradient(session)
        if not session.reestimated:
            return encoder.mean, encoder.std
        half_precision = config.training.precision == "bfloat16"
        mean, std = encode_by_gradient(model, store, shard, half_precision=half_precision)
    else:
        mean, std = encode_amortised(model, store, shard)
    session.parallel.all_gather_rows(mean)
    session.parallel.all_gather_rows(std)
    if isinstance(encoder, TableEncoder):
        return empirical_bayes_posterior(mean.cpu(), std.cpu(), model.prior_std.cpu(), seed=config.seed)
    if isinstance(encoder, ConvEncoder):
        mean = encoder.forget_view(store.require_pose().rotation, mean)
    return mean, std


def by_gradient(session: Session[ResolvedMethod]) -> bool:
    """Whether the table's latent points are re-estimated: as requested, or if that predicts held-out images better."""
    training, store = session.config.training, session.store
    if training.final_latents != "auto":
        return training.final_latents == "gradient"
    start = session.linear
    if start.mean.shape[1] != session.config.zdim or training.latent_rate:
        return False  # points that are not the linear model's have moved during training already
    held_out, _ = split_held_out(len(store), training.held_out, session.config.seed, copies=store.copies)
    if not len(held_out):
        return False
    with session.parallel.rank_zero_first() as is_rank_zero:
        better = False
        if is_rank_zero:
            gain = prediction_gain(
                deepcopy(session.model).cpu(),
                store,
                LinearReference(start.subspace.cpu(), start.prior_std),
                held=held_out,
                half_precision=training.precision == "bfloat16",
            )
            better = gain.is_significant
            session.run.log(
                f"re-estimated latent points predict held-out images better by {gain.by_trained[0]:.3f} +- "
                f"{gain.by_trained[1]:.3f} nats per image ({gain.by_linear[0]:.3f} with the linear maps): "
                f"{'used' if better else 'not used'}"
            )
    return session.parallel.broadcast_flag(better)
