"""What is measured of a finished model, kept as `checks.json`; `diagnostics.model` says what the numbers mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxtyping import Float32
from torch import Tensor

from cryomorph.io.json_file import read_record, write_json
from cryomorph.latents.held_out import view_r2
from cryomorph.models.measure import VIEWS, scale_of_maps, sign_of_maps, spread_over
from cryomorph.particles.store import Batch, ParticleStore
from cryomorph.representations.base import Representation

MEASUREMENTS = "checks.json"


@dataclass(frozen=True)
class ModelMeasurements:
    """Four numbers by which a model can be told to be wrong.

    `scale` is the factor by which the maps fit the images best, `sign` the correlation of the map at the mean latent
    point with the consensus, `kl` the divergence of each latent coordinate from its prior in nats, `view_r2` the
    held-out R^2 of the viewing direction predicted from the latent point.
    """

    scale: float
    sign: float
    kl: list[float]
    view_r2: float

    def write(self, folder: Path) -> None:
        """Write `checks.json` into a run's folder."""
        write_json(folder / MEASUREMENTS, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> ModelMeasurements | None:
        """What a run's `checks.json` holds; None where there is none.

        Raises:
            InputError: the file is damaged.
        """
        path = folder / MEASUREMENTS
        if not path.is_file():
            return None
        return read_record(cls, path, again="delete it, and `cryomorph analyze` measures again")


def measure(
    model: Representation,
    seen: Iterable[tuple[Batch, Float32[Tensor, "b zdim"]]],
    store: ParticleStore,
    *,
    mean: Float32[Tensor, "n zdim"],
    kl: list[float],
    consensus: Float32[Tensor, "z y x"],
) -> ModelMeasurements:
    """Measure a model on the CPU.

    Args:
        seen: whitened images with their latent points, for the scale.
        mean: latent points of all particles.
        kl: of each latent coordinate, in nats.
    """
    sample = spread_over(len(store), VIEWS)
    views = store.require_pose().rotation[sample, 2]
    return ModelMeasurements(
        scale_of_maps(model, seen, disk=store.disk),
        sign_of_maps(model, mean, consensus),
        kl,
        view_r2(mean[sample].numpy(), views.numpy()),
    )
