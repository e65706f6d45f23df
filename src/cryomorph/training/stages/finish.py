"""What a finished training leaves in the run folder."""

from __future__ import annotations

from jaxtyping import Float32
from torch import Tensor

from cryomorph.config.training import ResolvedMethod
from cryomorph.encoders.table import TableEncoder
from cryomorph.io.mrc import write_map
from cryomorph.models.registry import network_kind
from cryomorph.particles.metadata import rewrite_poses
from cryomorph.particles.store import ParticleStore
from cryomorph.physics.pose import Pose
from cryomorph.runs.folder import RunFolder
from cryomorph.training.device import release
from cryomorph.training.measure import measure_trained
from cryomorph.training.session import Session


def finish(session: Session[ResolvedMethod], mean: Float32[Tensor, "n zdim"], std: Float32[Tensor, "n zdim"]) -> None:
    """Write latent points, refined poses, measurements and, last, the model, which marks the run as complete."""
    run, model = session.run, session.model.cpu()
    release(model.representation)
    run.save_latent(mean, std)
    pose = session.store.require_pose()
    if model.poses is not None:
        pose = model.poses.corrected(pose, session.store.pixel_A)
    if model.poses is not None or session.store.refined is not None:
        write_poses(run, session.store, pose)
    if not session.config.zdim:
        volume = model.representation.volume(mean[0], session.store.box)
        write_map(run.path / "map.mrc", volume.numpy(), session.store.pixel_A)
    measure_trained(model, session.store, (mean, std), consensus=session.consensus.map).write(run.path)
    extra = {"prior_std": model.prior_std, "whitening": model.whitening}
    kind = "table" if isinstance(model.encoder, TableEncoder) else network_kind(model.encoder) or ""
    if model.encoder is not None and network_kind(model.encoder):
        extra |= {f"encoder.{name}": value for name, value in model.encoder.state_dict().items()}
    session.method.write_extras(session)
    run.save_model(model.representation, extra, encoder=kind, latents="gradient" if session.reestimated else "table")


def write_poses(run: RunFolder, store: ParticleStore, pose: Pose) -> None:
    """Write the refined poses, into particles.star too."""
    manifest = store.manifest
    run.save_pose(pose)
    source, target = store.folder / manifest.metadata, run.path / manifest.metadata
    rewrite_poses(source, target, pose, pixel_A=manifest.source_pixel_A, copies=store.copies)
