"""The loss of held-out particles, and when it has stopped improving."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cryomorph.compute.batch_threads import BatchThreads
from cryomorph.compute.distributed import Parallel
from cryomorph.config.training import ResolvedTraining
from cryomorph.encoders.table import TableEncoder
from cryomorph.models.heterogeneous import Heterogeneous
from cryomorph.particles.loader import ParticleLoader

FLAT = 1e-4  # a held-out loss per coefficient that fell by less is flat


def held_out_loss(
    model: Heterogeneous,
    held_out: ParticleLoader,
    plan: ResolvedTraining,
    *,
    weights: Sequence[Tensor],
    parallel: Parallel,
    threads: BatchThreads | None,
) -> float:
    """Loss per coefficient at the full band, averaged over the particles of all processes; nan if there are none.

    The rows of a table move as in a step: the weights have not seen these particles, but their own rows have.

    Args:
        weights: parameters that the optimisers train; they get no gradients here.
    """
    disk, table = held_out.store.disk, model.encoder if isinstance(model.encoder, TableEncoder) else None
    total = torch.zeros(2, device=parallel.device)
    model.eval()
    for weight in weights:
        weight.requires_grad_(False)
    for batch in held_out:
        batch = model.prepare_batch(batch.to(parallel.device), disk)
        noise = torch.zeros(len(batch), model.representation.zdim, device=parallel.device)
        with (
            torch.set_grad_enabled(table is not None),
            torch.autocast(parallel.device.type, torch.bfloat16, enabled=plan.precision == "bfloat16"),
        ):
            loss = model(batch, disk, noise, threads=threads)
            # with the final weight of the divergence: losses under its schedule could not be compared between epochs
            value = loss.nll + plan.beta / 2 * loss.kl.sum(1)
        if table is not None:
            value.sum().backward()
            table.step(plan.latent_rate, 1.0)
        finite = torch.isfinite(value.detach())
        total += torch.stack([torch.where(finite, value.detach(), 0).sum() / disk.size, finite.sum()])
    for weight in weights:
        weight.requires_grad_(True)
    model.train()
    summed, count = parallel.all_reduce_sum(total).tolist()
    return summed / count if count else float("nan")


def flat(losses: list[float], patience: int) -> bool:
    """Whether the last `patience` losses brought no improvement on the best before them."""
    return len(losses) > patience and min(losses[-patience:]) > min(losses[:-patience]) - FLAT
