"""What the documentation promises: the notebook runs and stays short, pages and comments name only what exists."""

from __future__ import annotations

import ast
import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import matplotlib as mpl
import pytest

from cryomorph.cli.commands import COMMANDS
from cryomorph.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "cryomorph"
NOTEBOOK = ROOT / "docs" / "tutorials" / "python.ipynb"
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts) + sorted(ROOT.glob("*.md"))
SECTIONS = [
    "Likelihood",
    "Back-projection and masks",
    "Linear subspace",
    "Neural field",
    "Convolutional volume",
    "Gaussian mixture",
    "Ab initio",
    "Latent analysis",
    "Landscape",
    "Simulation",
    "Metrics",
]
"""Sections of docs/methods.md, which comments cite."""
METHODS = ("linear", "neural-field", "gaussians", "conv-volume")
MOST_LINES = 25


@pytest.fixture(scope="module")
def cells() -> list[dict[str, object]]:
    """The code cells of the notebook."""
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_runs_and_finds_the_hinge(cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    names: dict[str, object] = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    end, agreement = names["end"], names["agreement"]
    assert 50 < len(end) < 500
    assert (tmp_path / "end.star").is_file()
    assert agreement.resolution_A < 30


def test_the_notebook_is_short_and_holds_no_results(cells):
    lines = [line for cell in cells for line in cell["source"] if line.strip()]
    assert len(lines) <= MOST_LINES
    assert not [cell["id"] for cell in cells if cell["outputs"] or cell["execution_count"]]


def test_the_sections_of_methods_are_those_that_comments_cite():
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "methods.md").read_text(), re.MULTILINE)
    assert headings == SECTIONS


def test_comments_cite_sections_of_methods_that_exist():
    wrong = []
    for path in [*SOURCE.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        text = " ".join(path.read_text().replace("#", " ").split())
        for cited in re.findall(r'docs/methods\.md((?:,? (?:and )?"[^"]+")*)', text):
            named = re.findall(r'"([^"]+)"', cited)
            wrong += [f"{path.name}: {name}" for name in named or ["no section"] if name not in SECTIONS]
    assert not wrong


def help_of(words: str) -> str:
    """What `cryomorph WORDS --help` prints."""
    said = io.StringIO()
    with redirect_stdout(said):
        assert main([*words.split(), "--help"]) == 0
    return said.getvalue()


def test_pages_name_options_that_exist():
    """Options in a command line of ours are that command's; those alone in a sentence are some command's."""
    asked = {name: [f"{name} {method}" for method in METHODS] if name == "train" else [name] for name in COMMANDS}
    known = {
        name: {option for words in each for option in re.findall(r"--(?:no-)?([a-zA-Z][\w-]*)", help_of(words))}
        for name, each in asked.items()
    }
    anywhere = set().union(*known.values()) | {"version"}
    wrong = []
    for page in PAGES:
        if page.name in ("CHANGELOG.md", "CONTRIBUTING.md") or page.parent.name == "commands":
            continue
        text = page.read_text()
        lines = re.findall(r"^(?:srun .*|torchrun .*)?cryomorph ([a-z]+)(.*)$", text, re.MULTILINE)
        lines += re.findall(r"`cryomorph ([a-z]+)([^`]*)`", text)
        for name, rest in lines:
            given = re.findall(r"(?<!\S)--(?:no-)?([a-zA-Z][\w-]*)", rest.split("#")[0])
            wrong += [f"{page.name}: {name} --{option}" for option in given if option not in known[name]]
        alone = re.findall(r"`--(?:no-)?([a-zA-Z][\w-]*)[^`]*`", text)
        wrong += [f"{page.name}: --{option}" for option in alone if option not in anywhere]
    assert not wrong


def test_pages_name_modules_and_tests_that_exist():
    """`package/module.py` is one of ours, and `test_...` is a test: what moves takes its mentions along."""
    tests = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    missing = []
    for page in PAGES:
        text = page.read_text()
        modules = [name for name in re.findall(r"`([a-z_]+/[a-z_/]*\.py)`", text) if not (ROOT / name).exists()]
        missing += [f"{page.name}: {name}" for name in modules if not (SOURCE / name).exists()]
        missing += [f"{page.name}: {name}" for name in re.findall(r"`(test_\w+)`", text) if name not in tests]
    assert not missing
