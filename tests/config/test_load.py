"""Configs survive their file; a wrong file is refused with the key named."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from tyro.conf import Positional, arg

from cryomorph.config.errors import InputError
from cryomorph.config.load import as_json, load_config


@dataclass(frozen=True)
class Inner:
    """A part of a config."""

    lowpass_A: float = 8.0
    """Low pass."""


@dataclass(frozen=True)
class Outer:
    """Every kind of field that a config has."""

    particles: Positional[Path]
    """Positional."""
    output: Annotated[Path, arg(aliases=["-o"])] = Path("run")
    """With an alias."""
    stacks: tuple[Path, ...] = ()
    """Many."""
    box: int | None = None
    """Optional."""
    recipe: Literal["default", "paper"] = "default"
    """A choice."""
    resume: bool = False
    """A switch."""
    inner: Inner = field(default_factory=Inner)
    """Nested."""


FULL = Outer(Path("a.star"), Path("out"), (Path("x"), Path("y")), 64, "paper", resume=True, inner=Inner(4.5))


@pytest.mark.parametrize("config", [FULL, Outer(Path("a.star"))])
def test_round_trip(config, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(as_json(config)))
    assert load_config(Outer, path) == config
    assert json.loads(path.read_text())["particles"] == "a.star"


def test_keys_left_out_take_the_defaults(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"particles": "a.star"}')
    assert load_config(Outer, path) == Outer(Path("a.star"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"particles": "a", "recipee": "paper"}', "unknown key 'recipee': did you mean 'recipe'?"),
        ('{"particles": "a", "qqqq": 1}', "unknown key 'qqqq': expected particles, output"),
        ('{"particles": "a", "inner": {"lowpas_A": 1}}', "unknown key 'inner.lowpas_A': did you mean 'lowpass_A'?"),
        ('{"particles": "a", "box": "many"}', "box.*found 'many'"),
        ('{"particles": "a", "recipe": "fast"}', "recipe.*'default' or 'paper'.*found 'fast'"),
        ("{}", "particles: .*required"),
        ("[1]", "found a JSON list, expected an object"),
        ("{,}", "not JSON"),
        ("\udcff", "not JSON"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_key(text, said, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=said) as caught:
        load_config(Outer, path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(InputError, match="no such config file"):
        load_config(Outer, tmp_path / "config.json")


def test_old_names_are_understood_in_nested_parts_too(tmp_path):
    from cryomorph.config.neural_field import NeuralFieldConfig

    path = tmp_path / "config.json"
    old = {"linear_band": 12, "training": {"first_band": 5.0, "band_share": 0.1}, "network": {"encoder_band": 7.0}}
    path.write_text(json.dumps({"particles": "a.star", "output": "run", **old}))
    found = load_config(NeuralFieldConfig, path)
    assert (found.linear_radius, found.network.encoder_radius) == (12, 7.0)
    assert (found.training.first_radius, found.training.radius_share) == (5.0, 0.1)


@pytest.mark.parametrize(
    "content", [{"training": {"epochs": "many"}}, {"warm_steps": "x"}, {"network": {"width": "x"}}]
)
def test_an_open_choice_is_checked_like_any_other_field(content, tmp_path):
    from cryomorph.config.neural_field import NeuralFieldConfig

    path = tmp_path / "config.json"
    path.write_text(json.dumps({"particles": "a.star", "output": "run", **content}))
    with pytest.raises(InputError, match="valid integer"):
        load_config(NeuralFieldConfig, path)
