"""The warm start of an encoder network: it learns the latent points that the linear stage has found."""

from __future__ import annotations

from time import perf_counter

import torch

from cryomorph.config.console import progress
from cryomorph.models.registry import network_kind
from cryomorph.objectives.schedules import scheduled
from cryomorph.particles.loader import ParticleLoader
from cryomorph.runs.checkpoint import load_tensors, save_tensors
from cryomorph.training.session import Session, required

TAUGHT = "checkpoints/encoder.safetensors"
PASSES = 2
BATCH = 32
LEARNING_RATE = 1e-3
LOOKED_AT = 10  # steps: each time the device is waited for


def teach_encoder(session: Session) -> None:
    """Fit an encoder network to the particles' linear latent points; without such a network nothing is to be done.

    The loss is the divergence of what the network says from the Gaussian that the linear model found, for each
    particle: `KL(N(point, spread^2) || N(mean, variance))`, which is least where both agree.
    """
    model, lesson = required(session.model), required(session.lesson)
    if network_kind(model.encoder) is None or model.encoder is None:
        return
    encoder, path = model.encoder, session.run.path / TAUGHT
    with session.parallel.rank_zero_first() as first:
        if first and not path.is_file():
            begin, device, count = perf_counter(), session.parallel.device, len(session.store)
            optimiser = torch.optim.Adam(encoder.parameters(), lr=LEARNING_RATE)
            encoder.train()
            missing = 0.0
            with progress("encoder", PASSES * count) as advance:
                for number in range(PASSES):
                    loader = ParticleLoader(session.store, BATCH, shuffle=True, seed=session.config.seed)
                    for step, given in enumerate(loader.batches(number)):
                        batch = model.placed(given.to(device), session.store.disk)
                        point, spread = (each[given.index].to(device) for each in (lesson.point, lesson.spread))
                        said = encoder(batch)
                        apart = (said.mean - point).square() + spread.square()
                        loss = (0.5 * (said.log_variance + apart * (-said.log_variance).exp())).sum(1).mean()
                        optimiser.zero_grad()
                        loss.backward()
                        done = (number + step * BATCH / count) / PASSES
                        optimiser.param_groups[0]["lr"] = LEARNING_RATE * scheduled("cosine", done, first=1.0, last=0.1)
                        optimiser.step()
                        if step % LOOKED_AT == 0:
                            error = float(((said.mean.detach() - point) / model.prior_std).square().mean())
                            missing = error if not missing else 0.7 * missing + 0.3 * error
                        advance(len(given), f"encoder, {missing:.1%} of the latent variance missing")
            save_tensors(path, encoder.state_dict())
            session.run.log(
                f"encoder: holds {1 - missing:.1%} of the variance of the linear latent points; "
                f"{perf_counter() - begin:.1f} s"
            )
    encoder.load_state_dict(load_tensors(path)[0])
