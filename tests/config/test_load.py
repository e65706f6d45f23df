"""Configs survive their file; a wrong file is refused with the key named."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from tyro.conf import Positional, arg

from cryomorph.config.errors import InputError
from cryomorph.config.load import load_config, save_config


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
    save_config(config, path)
    assert load_config(Outer, path) == config
    assert json.loads(path.read_text())["particles"] == "a.star"
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


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


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    save_config(FULL, path)

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        save_config(Outer(Path("b.star")), path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    assert load_config(Outer, path) == FULL
