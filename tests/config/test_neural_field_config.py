"""What the neural field's recipes choose, and what a user's own choice overrides."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from cryomorph.config.conv_volume import ConvConfig, ConvVolumeConfig
from cryomorph.config.gaussians import GaussiansConfig, MixtureConfig
from cryomorph.config.load import as_json, load_config
from cryomorph.config.neural_field import NetworkConfig, NeuralFieldConfig
from cryomorph.config.neural_field import neural_field_by_recipe as by_recipe
from cryomorph.config.training import MethodConfig, TrainingConfig

LEFT_OPEN = {"first_radius", "encoder_radius", "epochs", "projection_classes"}
"""Chosen from the particles: all of the box, and enough epochs for the images there are."""


def asked(**changes):
    return replace(NeuralFieldConfig(Path("in.star"), Path("out")), **changes)


@pytest.mark.parametrize("recipe", ["default", "paper"])
@pytest.mark.parametrize("zdim", [0, 1, 8, 30])
def test_a_recipe_fills_every_field_that_was_left_to_it(recipe, zdim):
    config = by_recipe(asked(recipe=recipe, zdim=zdim))
    open_fields = {
        field.name
        for part in (config.network, config.training)
        for field in fields(part)
        if getattr(part, field.name) is None
    }
    assert open_fields <= LEFT_OPEN
    assert config.linear_zdim is not None and config.warm_steps is not None


def test_the_paper_s_recipe_is_the_publications():
    """METHODS 3: Adam 1e-4, batch 8, beta 1/zdim, plain ReLU MLP, geometric encoding, white noise, the full band."""
    config = by_recipe(asked(recipe="paper", zdim=10))
    network, training = config.network, config.training
    assert (training.optimiser, training.learning_rate, training.batch_size) == ("adam", 1e-4, 8)
    assert (training.rate_schedule, training.beta_schedule) == ("constant", "constant")
    assert training.beta == pytest.approx(1 / 10)
    assert (training.noise, training.radius_share, training.patience) == ("white", 0.0, 0)
    assert (network.network, network.encoding, network.encoder) == ("plain", "geometric", "mlp")
    assert config.warm_steps == 0 and training.epochs == 20


def test_the_default_recipe_is_a_table_under_the_exact_bound():
    config = by_recipe(asked())
    assert config.training.beta == 2.0  # in the papers' units: a weight of one beside the likelihood
    network = config.network
    assert (network.encoder, network.network, network.encoding) == ("table", "residual", "gaussian")
    assert (config.training.noise, config.training.optimiser) == ("radial", "muon")
    assert config.training.patience > 0 and config.training.radius_share > 0 and config.warm_steps > 0


def test_beta_of_the_paper_without_a_latent_space_is_a_number():
    assert by_recipe(asked(recipe="paper", zdim=0)).training.beta == 1


@pytest.mark.parametrize(("zdim", "expected"), [(0, 0), (2, 2), (8, 8), (20, 20), (30, 20)])
def test_the_linear_stage_has_as_many_components_as_the_field_and_no_more_than_twenty(zdim, expected):
    assert by_recipe(asked(zdim=zdim)).linear_zdim == expected


def test_a_single_coordinate_is_taken_from_several_linear_ones():
    assert by_recipe(asked(zdim=1)).linear_zdim > 1


def test_the_encoder_network_is_as_large_as_the_field_unless_said():
    grown = by_recipe(asked(network=NetworkConfig(width=512, layers=5)))
    assert (grown.network.encoder_width, grown.network.encoder_layers) == (512, 5)
    own = by_recipe(asked(network=NetworkConfig(width=512, encoder_width=64)))
    assert (own.network.encoder_width, own.network.encoder_layers) == (64, own.network.layers)


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_what_a_user_says_goes_before_the_recipe_zero_included(recipe):
    network = NetworkConfig(width=99, feature_sigma=0.3)
    training = TrainingConfig(epochs=3, batch_size=5, beta=0.0, patience=0, radius_share=0.0, latent_rate=0.0)
    config = by_recipe(asked(recipe=recipe, network=network, training=training, warm_steps=0, linear_zdim=3))
    assert (config.network.width, config.network.feature_sigma) == (99, 0.3)
    found = config.training
    assert (found.epochs, found.batch_size, found.beta, found.patience, found.radius_share) == (3, 5, 0.0, 0, 0.0)
    assert config.warm_steps == 0 and config.linear_zdim == 3


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_a_resolved_config_resolves_to_itself_and_survives_a_file(recipe, tmp_path):
    config = by_recipe(asked(recipe=recipe))
    assert by_recipe(config) == config
    (tmp_path / "config.json").write_text(json.dumps(as_json(config)))
    assert load_config(NeuralFieldConfig, tmp_path / "config.json") == config
    assert as_json(config)["training"]["optimiser"] == config.training.optimiser


def test_every_field_has_a_sentence_for_the_help():
    import ast
    import inspect

    configs = (NeuralFieldConfig, GaussiansConfig, ConvVolumeConfig)
    for kind in (MethodConfig, TrainingConfig, *configs, NetworkConfig, MixtureConfig, ConvConfig):
        body = ast.parse(inspect.getsource(kind)).body[0].body[1:]
        names = [node.target.id for node in body if isinstance(node, ast.AnnAssign)]
        sentences = [node for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
        above = {field.name for field in fields(MethodConfig)} if kind in configs else set()
        assert len(names) == len(sentences) and {*names, *above} == {field.name for field in fields(kind)}
