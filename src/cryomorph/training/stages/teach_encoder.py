"""The warm start of an encoder network: it learns the latent points of the linear stage."""

from __future__ import annotations

from time import perf_counter

import torch

from cryomorph.config.console import progress
from cryomorph.config.run import MethodOptions
from cryomorph.models.registry import network_kind
from cryomorph.objectives.schedules import scheduled
from cryomorph.particles.loader import ParticleLoader
from cryomorph.runs.checkpoint import load_state, save_tensors
from cryomorph.training.session import Session

TAUGHT = "checkpoints/encoder.safetensors"
PASSES = 2
BATCH = 32
LEARNING_RATE = 1e-3
READ_EVERY = 10  # steps: each reading waits for the device


def teach_encoder(session: Session[MethodOptions]) -> None:
    """Fit an encoder network, if the model has one, to the linear latent points of the particles.

    The loss of a particle is `KL(N(point, spread^2) || N(mean, variance))`, from the linear model's posterior to the
    network's, which is least where both agree.
    """
    model, targets = session.model, session.initial_targets
    if network_kind(model.encoder) is None or model.encoder is None:
        return
    encoder, path = model.encoder, session.run.path / TAUGHT
    with session.parallel.rank_zero_first() as is_rank_zero:
        if is_rank_zero and not path.is_file():
            begin, device, count = perf_counter(), session.parallel.device, len(session.store)
            optimiser = torch.optim.Adam(encoder.parameters(), lr=LEARNING_RATE)
            encoder.train()
            missing = 0.0
            with progress("encoder", PASSES * count) as advance:
                for number in range(PASSES):
                    loader = ParticleLoader(session.store, BATCH, shuffle=True, seed=session.config.seed)
                    for step, given in enumerate(loader.batches(number)):
                        batch = model.prepare_batch(given.to(device), session.store.disk)
                        point, spread = (each[given.index].to(device) for each in (targets.point, targets.spread))
                        posterior = encoder(batch)
                        apart = (posterior.mean - point).square() + spread.square()
                        loss = (0.5 * (posterior.log_variance + apart * (-posterior.log_variance).exp())).sum(1).mean()
                        optimiser.zero_grad()
                        loss.backward()
                        done = (number + step * BATCH / count) / PASSES
                        optimiser.param_groups[0]["lr"] = LEARNING_RATE * scheduled("cosine", done, first=1.0, last=0.1)
                        optimiser.step()
                        if step % READ_EVERY == 0:
                            error = float(((posterior.mean.detach() - point) / model.prior_std).square().mean())
                            missing = error if not missing else 0.7 * missing + 0.3 * error
                        advance(len(given), f"encoder, {missing:.1%} of the latent variance missing")
            save_tensors(path, encoder.state_dict())
            session.run.log(
                f"encoder: reproduces {1 - missing:.1%} of the variance of the linear latent points; "
                f"{perf_counter() - begin:.1f} s"
            )
    load_state(encoder, path)
