"""How a model starts: from the linear maps, which it learns before it sees an image, or at random."""

from __future__ import annotations

from time import perf_counter

from cryomorph.config.console import progress
from cryomorph.config.run import MethodOptions
from cryomorph.config.training import ResolvedMethod
from cryomorph.runs.checkpoint import load_state, save_tensors
from cryomorph.training.device import threads_for
from cryomorph.training.distillation import distil, rms_transfer
from cryomorph.training.session import Session

WARM = "checkpoints/warm.safetensors"
BATCH = 16


def random_start(session: Session[MethodOptions]) -> None:
    """Build the model, randomly initialised."""
    session.model = session.build()


def warm_start(session: Session[ResolvedMethod]) -> None:
    """Build the model and teach it the linear maps at the particles' latent points."""
    config, parallel = session.config, session.parallel
    model = session.model = session.build()
    path = session.run.path / WARM
    with parallel.rank_zero_first() as is_rank_zero:
        if is_rank_zero and not path.is_file():
            begin = perf_counter()
            with (
                threads_for(parallel.device, BATCH, model.representation) as threads,
                progress("warm start", config.warm_steps) as advance,
            ):
                transfer = rms_transfer(session.store, model.whitening, seed=config.seed)
                missing = distil(
                    model.representation,
                    session.linear.subspace.to(parallel.device),
                    session.initial_targets,
                    transfer=transfer.to(parallel.device),
                    disk=session.store.disk.within(config.linear_radius),
                    steps=config.warm_steps,
                    batch_size=BATCH,
                    seed=config.seed,
                    half_precision=config.training.precision == "bfloat16",
                    after_step=lambda step, share: advance(1, f"warm start, {share:.1%} of the linear maps missing"),
                    threads=threads,
                )
            save_tensors(path, model.state_dict())
            session.run.log(
                f"warm start: the model reproduces {1 - missing:.1%} of the linear maps' power; "
                f"{perf_counter() - begin:.1f} s"
            )
    load_state(model, path)
