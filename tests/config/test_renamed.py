"""Options with a new name: old config files mean what they meant."""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_origin, get_type_hints

import pytest

from cryomorph.config.abinit import AbinitConfig
from cryomorph.config.choices import filled, resolved, unresolved
from cryomorph.config.errors import InputError
from cryomorph.config.methods import methods
from cryomorph.config.neural_field import NeuralFieldConfig, neural_field_by_recipe
from cryomorph.config.renamed import FIELDS, current_keys
from cryomorph.config.simulate import SimulateConfig
from cryomorph.runs.folder import RunFolder


def field_names(config: type) -> set[str]:
    """The fields of a config and of the configs in it."""
    hints = get_type_hints(config, include_extras=False)
    inner = (get_origin(kind) or kind for name, kind in hints.items())
    return set(hints) | {name for kind in inner if is_dataclass(kind) for name in field_names(kind)}


OLD = {"method": "neural-field", "linear_band": 24, "training": {"first_band": None, "band_share": 0.3}}
NEW = {"method": "neural-field", "linear_radius": 24, "training": {"first_radius": None, "radius_share": 0.3}}


def test_old_keys_get_their_present_names_wherever_they_are():
    assert current_keys(OLD) == NEW == current_keys(NEW)


def test_every_new_name_is_an_option():
    of_methods = {name.split(".")[-1] for entry in methods().values() for name in field_names(entry.config)}
    found = of_methods | field_names(AbinitConfig) | field_names(SimulateConfig)
    assert set(FIELDS.values()) <= found


def test_a_run_written_with_old_keys_is_resumed(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(OLD))
    with RunFolder.create(tmp_path, NEW, resume=True, overwrite=False) as run:
        assert run.config() == NEW
    other = RunFolder.create(tmp_path, NEW | {"linear_radius": 12}, resume=True, overwrite=False)
    with pytest.raises(InputError, match=r"started with linear_radius = 24 and is resumed with 12"), other:
        pass


def test_a_choice_that_nothing_makes_is_named():
    config = neural_field_by_recipe(NeuralFieldConfig(Path("particles"), Path("run")))
    chosen = {"epochs": 3, "first_radius": 8.0, "projection_classes": 12}
    assert unresolved(filled(config, chosen)) == ["network.encoder_radius"]
    with pytest.raises(TypeError, match=r"NeuralFieldConfig: nothing chooses network\.encoder_radius"):
        resolved(config, chosen)
    assert resolved(config, chosen | {"encoder_radius": 4.0, "seed": 9}).seed == 0  # what was given stays
