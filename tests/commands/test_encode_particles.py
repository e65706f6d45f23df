"""`encode`: new particles under a trained model. Those that it was trained on come back to where they were."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomorph.commands.encode import encode_particles
from cryomorph.commands.train import train
from cryomorph.config.encode import EncodeConfig
from cryomorph.config.errors import InputError
from cryomorph.config.neural_field import NetworkConfig, NeuralFieldConfig
from cryomorph.config.prepare import ImageSource
from cryomorph.config.training import TrainingConfig
from cryomorph.io.star import read_star, write_star
from cryomorph.particles.metadata import read_particles
from cryomorph.particles.prepare import prepare
from cryomorph.representations.encodings import frequency_matrix
from cryomorph.representations.field_network import FieldShape
from cryomorph.representations.neural_field import NeuralField
from cryomorph.runs.folder import RunFolder

SMALL = NetworkConfig(width=32, layers=1, feature_share=2.0, encoder_width=16)
SHORT = TrainingConfig(epochs=4, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def linear(tiny_run, tiny_set, tmp_path_factory) -> RunFolder:
    """The particles of the linear run, encoded by it."""
    output = tmp_path_factory.mktemp("encoded") / "run"
    return encode_particles(EncodeConfig(tiny_run.path, tiny_set / "particles.star", output))


@pytest.fixture
def hollow(tiny_run, tmp_path):
    """Makes runs whose field knows nothing, with a latent space of some dimension."""

    def make(zdim: int) -> RunFolder:
        shutil.copytree(tiny_run.path, tmp_path / "hollow", symlinks=True)
        run = RunFolder(tmp_path / "hollow")
        field = NeuralField(FieldShape(16, zdim, width=8, layers=1), frequency_matrix("gaussian", 16, count=4))
        run.save_model(field, {"prior_std": torch.ones(zdim)}, encoder="foreign")
        return run

    return make


def agreement(one: RunFolder, other: RunFolder) -> list[float]:
    """Correlation of each latent coordinate."""
    a, b = one.latent_mean(), other.latent_mean()
    return [float(np.corrcoef(a[:, k], b[:, k])[0, 1]) for k in range(a.shape[1])]


def test_a_linear_run_gives_the_exact_posterior(tiny_run, linear):
    """Bayesian regression in double precision; the prior is how the run's own particles are spread."""
    store, model = linear.store(), tiny_run.representation()
    index = torch.arange(len(store))
    batch = store.batch(index)
    # mean and components from slices at the origin and at unit points
    at = torch.cat([torch.zeros(1, 2), torch.eye(2)])
    values = torch.stack([model.slices(p.expand(len(store), 2), batch.rotation, store.disk) for p in at], dim=-1)
    values = (values * batch.ctf[..., None]).to(torch.complex128).numpy()
    columns = values[..., 1:] - values[..., :1]
    prior = tiny_run.latent_mean().var(0, ddof=1) + np.square(tiny_run.latent_std()).mean(0)
    precision = 2 * np.einsum("bmp,bmq->bpq", columns.conj(), columns).real + np.diag(1 / prior.astype(float))
    covariance = np.linalg.inv(precision)
    missing = batch.image.to(torch.complex128).numpy() - values[..., 0]
    mean = np.einsum("bpq,bq->bp", covariance, 2 * np.einsum("bmp,bm->bp", columns.conj(), missing).real)
    std = np.sqrt(covariance.diagonal(axis1=1, axis2=2))
    np.testing.assert_allclose(linear.latent_std(), std, rtol=1e-3)
    assert np.abs((linear.latent_mean() - mean) / std).max() < 5e-3


def test_a_linear_run_puts_its_own_particles_where_they_were(tiny_run, linear):
    assert min(agreement(tiny_run, linear)) > 0.99
    apart = np.abs(linear.latent_mean() - tiny_run.latent_mean()) / tiny_run.latent_std()
    assert np.median(apart) < 1


def test_the_result_is_a_run_of_the_same_model_and_the_new_particles(tiny_run, linear, tiny_set):
    opened = RunFolder.open(linear.path)
    assert opened.config()["method"] == "linear"
    assert opened.config()["run"] == str(tiny_run.path)
    assert len(opened.store()) == len(opened.latent_mean()) == 400
    assert (linear.path / "particles.star").is_file()
    point = torch.tensor([1.0, -1.0])
    assert torch.equal(opened.representation().volume(point, 16), tiny_run.representation().volume(point, 16))
    before, after = tiny_run.model_tensors(), opened.model_tensors()
    assert before.keys() == after.keys()


def test_a_few_particles_lie_where_they_lie_among_all(tiny_run, linear, tiny_set, tmp_path):
    """The noise is judged from the few alone, which costs less than the posterior's width."""
    chosen = np.arange(0, 400, 20)
    np.savetxt(tmp_path / "index.txt", chosen, fmt="%d")
    images = ImageSource(index=tmp_path / "index.txt")
    few = encode_particles(EncodeConfig(tiny_run.path, tiny_set / "particles.star", tmp_path / "few", images=images))
    apart = np.abs(few.latent_mean() - linear.latent_mean()[chosen]) / linear.latent_std()[chosen]
    assert np.median(apart) < 0.2 and apart.max() < 1
    # and so do all of them by the code that encodes an encoded run
    again = encode_particles(EncodeConfig(linear.path, tiny_set / "particles.star", tmp_path / "again"))
    assert min(agreement(again, linear)) > 0.99


def test_a_field_with_a_table_finds_its_particles_again_by_gradient(tiny_store, tmp_path):
    training = replace(SHORT, final_latents="gradient")
    config = NeuralFieldConfig(
        tiny_store.folder, tmp_path / "run", zdim=2, network=SMALL, training=training, warm_steps=300, seed=1
    )
    run = train(config)
    encoded = encode_particles(EncodeConfig(run.path, tiny_store.folder, tmp_path / "encoded", device="cpu"))
    # theirs are drawn on the landscape of all, after the same search
    assert min(agreement(run, encoded)) > 0.95
    assert (encoded.latent_std() > 0).all()
    assert encoded.config()["method"] == "neural-field"


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_a_field_with_an_encoder_network_asks_it(tiny_store, tmp_path, recipe):
    """The papers' network has no skip connections and another noise model: both are kept with the run."""
    network = replace(SMALL, encoder="mlp", width=16)
    config = NeuralFieldConfig(
        tiny_store.folder,
        tmp_path / "run",
        zdim=2,
        recipe=recipe,
        network=network,
        training=replace(SHORT, epochs=1, batch_size=32),
        warm_steps=20 if recipe == "default" else None,
        contrast=False,
        fix_poses=True,
        seed=1,
    )
    run = train(config)
    encoded = encode_particles(EncodeConfig(run.path, tiny_store.folder, tmp_path / "encoded", device="cpu"))
    if recipe == "default":
        np.testing.assert_allclose(encoded.latent_mean(), run.latent_mean(), atol=1e-5)
        np.testing.assert_allclose(encoded.latent_std(), run.latent_std(), rtol=1e-5)
    assert min(agreement(run, encoded)) > 0.999


def test_particles_of_another_box_are_refused(tiny_run, tiny_set, tmp_path):
    prepare(read_particles(tiny_set / "particles.star"), tmp_path / "small", box=12)
    with pytest.raises(InputError, match=r"small: box 12 at .* A per pixel, expected .* 16 at 16: resample the images"):
        encode_particles(EncodeConfig(tiny_run.path, tmp_path / "small", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_particles_of_another_pixel_size_are_refused(tiny_run, tiny_set, tmp_path):
    blocks = read_star(tiny_set / "particles.star")
    optics = next(block for name, block in blocks.items() if "optics" in name)
    optics["rlnImagePixelSize"] = "15.5"
    write_star(tmp_path / "other.star", blocks)
    images = ImageSource(datadir=tiny_set)
    with pytest.raises(InputError, match=r"other.star: box 16 at 15.5 A per pixel, expected those of the model"):
        encode_particles(EncodeConfig(tiny_run.path, tmp_path / "other.star", tmp_path / "out", images=images))
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_latent_space_is_refused(hollow, tiny_set, tmp_path):
    run = hollow(0)
    with pytest.raises(InputError, match=r"hollow has no latent space \(--zdim 0\): every particle has the same map"):
        encode_particles(EncodeConfig(run.path, tiny_set / "particles.star", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_run_that_cannot_encode_is_refused(hollow, tiny_set, tmp_path):
    """An imported run has a field and latent points, and nothing that finds new ones."""
    run = hollow(2)
    with pytest.raises(InputError, match=r"hollow has no encoder network and no .*: it cannot encode"):
        encode_particles(EncodeConfig(run.path, tiny_set / "particles.star", tmp_path / "out"))


def test_files_that_are_not_there_are_named(tiny_run, tiny_set, tmp_path):
    with pytest.raises(InputError, match="is not a run folder"):
        encode_particles(EncodeConfig(tiny_set, tiny_set / "particles.star", tmp_path / "out"))
    with pytest.raises(InputError, match="no such particle file or store"):
        encode_particles(EncodeConfig(tiny_run.path, tmp_path / "nowhere.star", tmp_path / "out"))
