"""A small store and small models of it, for tests of the parts of a training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
import torch

if TYPE_CHECKING:
    from cryomorph.config.training import TrainingConfig
    from cryomorph.models.heterogeneous import Heterogeneous
    from cryomorph.particles.store import ParticleStore
    from cryomorph.training.trainer import Trainer


class MakeModel(Protocol):
    """Makes a small field of the store with an encoder of a kind, the same each time."""

    def __call__(self, encoder: str = "table", zdim: int = 2) -> Heterogeneous: ...


class MakeTrainer(Protocol):
    """Makes a trainer of a small model by `small_plan`, some of whose fields are replaced."""

    def __call__(self, encoder: str = "table", zdim: int = 2, **changes: object) -> Trainer: ...


@pytest.fixture(scope="session")
def tiny_store(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> ParticleStore:
    """The store of the tiny set: 400 particles, box 16."""
    from cryomorph.particles.metadata import read_particles
    from cryomorph.particles.prepare import prepare

    folder = tmp_path_factory.mktemp("tiny") / "store"
    prepare(read_particles(tiny_set / "particles.star"), folder)
    from cryomorph.particles.store import ParticleStore

    return ParticleStore.open(folder)


@pytest.fixture(scope="session")
def small_plan() -> TrainingConfig:
    """A plan with every field filled in: two epochs of twelve steps, the full band from the start."""
    from cryomorph.config.training import TrainingConfig

    return TrainingConfig(
        epochs=2,
        batch_size=32,
        optimiser="adam",
        learning_rate=1e-3,
        latent_rate=0.5,
        rate_schedule="cosine",
        beta=2.0,
        beta_schedule="linear",
        noise="radial",
        first_band=4.0,
        band_share=0.0,
        patience=0,
        held_out=0.05,
        final_model="last",
        prior="normal",
        precision="float32",
        compile="no",
        device="cpu",
    )


@pytest.fixture(scope="session")
def make_model(tiny_store: ParticleStore) -> MakeModel:
    """Makes small models of the tiny store."""
    from cryomorph.encoders.mlp import MlpEncoder
    from cryomorph.encoders.table import TableEncoder
    from cryomorph.models.heterogeneous import Heterogeneous
    from cryomorph.representations.encodings import frequency_matrix
    from cryomorph.representations.field_network import FieldShape
    from cryomorph.representations.neural_field import NeuralField

    def make(encoder: str = "table", zdim: int = 2) -> Heterogeneous:
        torch.manual_seed(5)
        frequencies = frequency_matrix("gaussian", 16, sigma=0.5, count=8, seed=5)
        field = NeuralField(FieldShape(16, zdim, width=16, layers=1), frequencies)
        n = len(tiny_store)
        encoders = {
            "table": lambda: TableEncoder(torch.randn(n, zdim), torch.full((n, zdim), 0.3)),
            "mlp": lambda: MlpEncoder(tiny_store.disk.size, zdim, width=16, layers=1),
        }
        whitening = torch.ones(tiny_store.disk.size)
        chosen = encoders[encoder]() if zdim else None
        return Heterogeneous(field, chosen, prior_std=torch.ones(zdim), whitening=whitening)

    return make


@pytest.fixture(scope="session")
def make_trainer(tiny_store: ParticleStore, make_model: MakeModel, small_plan: TrainingConfig) -> MakeTrainer:
    """Makes trainers of small models on the tiny store, one process on the CPU."""
    from dataclasses import replace

    from cryomorph.training.parallel import Parallel
    from cryomorph.training.trainer import Trainer

    def make(encoder: str = "table", zdim: int = 2, **changes: object) -> Trainer:
        alone = Parallel(0, 1, torch.device("cpu"))
        plan = replace(small_plan, **changes)  # type: ignore[arg-type]
        return Trainer(make_model(encoder, zdim), tiny_store, plan, parallel=alone, seed=7)

    return make
