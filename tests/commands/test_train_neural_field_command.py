"""`cryomorph train neural-field`: a run's config given back, options before the file's, refusals in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cryomorph.cli.main import main
from cryomorph.runs.folder import RunFolder

TINY = ["--zdim", "2", "--width", "16", "--layers", "1", "--epochs", "1", "--warm-steps", "20", "--seed", "5"]
TINY += ["--precision", "float32", "--device", "cpu"]


@pytest.fixture(scope="module")
def first(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run made by options alone."""
    output = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "neural-field", str(tiny_set / "particles.star"), "-o", str(output), *TINY]) == 0
    return RunFolder.open(output)


def refusal(words, capsys) -> str:
    """The one line that is said, with status 2."""
    capsys.readouterr()
    assert main(["train", "neural-field", *map(str, words)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(said) == 1 and said[0].startswith("error: ")
    return said[0]


def test_a_run_s_config_gives_back_the_same_run(first, tmp_path):
    output = tmp_path / "again"
    assert main(["train", "neural-field", "-o", str(output), "--config", str(first.path / "config.json")]) == 0
    again = RunFolder.open(output)
    assert again.config() == first.config()
    np.testing.assert_array_equal(again.latent_mean(), first.latent_mean())
    found, expected = again.model_tensors(), first.model_tensors()
    assert found.keys() == expected.keys()
    assert all(np.array_equal(value, expected[name]) for name, value in found.items())


def test_options_go_before_the_file_s_and_the_others_stay(first, tmp_path):
    output = tmp_path / "other"
    file = f"--config={first.path / 'config.json'}"
    assert main(["train", "neural-field", file, "-o", str(output), "--seed", "6", "--epochs", "2"]) == 0
    before, after = first.config(), RunFolder.open(output).config()
    assert (after["seed"], after["training"]["epochs"]) == (6, 2)
    assert after["network"] == before["network"] and after["particles"] == before["particles"]
    changed = {key for key in before["training"] if before["training"][key] != after["training"][key]}
    assert changed == {"epochs"}


def test_other_particles_may_be_given_to_a_run_s_config(first, tiny_set, tmp_path, capsys):
    words = [tmp_path / "none.star", "-o", tmp_path / "run", "--config", first.path / "config.json"]
    assert "none.star: no such particle file or store" in refusal(words, capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"zdimm": 3}, "unknown key 'zdimm': did you mean 'zdim'?"),
        ({"training": {"epoch": 3}}, "unknown key 'training.epoch': did you mean 'epochs'?"),
        ({"training": {"epochs": "many"}}, "training.epochs: "),
        ({"recipe": "secret"}, "recipe: "),
    ],
)
def test_what_a_config_must_not_say_is_refused_with_the_file_s_name(first, tmp_path, capsys, change, expected):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({**first.config(), **change}))
    said = refusal(["-o", tmp_path / "run", "--config", file], capsys)
    assert f"{file}: {expected}" in said
    assert not (tmp_path / "run").exists()


def test_a_config_that_is_not_there_is_refused(tmp_path, capsys):
    said = refusal(["-o", tmp_path / "run", "--config", tmp_path / "none.json"], capsys)
    assert f"{tmp_path / 'none.json'}: no such config file" in said


def test_a_run_in_use_is_refused_and_replaced_where_asked(first, tiny_set, tmp_path, capsys):
    particles = tiny_set / "particles.star"
    assert "--resume goes on with it, --overwrite replaces it" in refusal([particles, "-o", first.path, *TINY], capsys)
    assert main(["train", "neural-field", str(particles), "-o", str(first.path), *TINY, "--resume"]) == 0
    assert "complete already" in capsys.readouterr().err


def test_the_help_shows_each_group_s_options_and_their_sentences(capsys):
    assert main(["train", "neural-field", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for option in ("--zdim", "--recipe", "--config", "--encoder", "--refine-poses", "--beta-schedule", "--resume"):
        assert option in said
    assert "0 fits one map to all particles" in said
