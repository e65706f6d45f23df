"""`pyproject.toml` tells the truth: what is needed is imported, what is imported is needed, and all of it is pinned."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "cryomorph"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = [Requirement(line) for line in PROJECT["dependencies"]]
OPTIONAL = {group: [Requirement(line) for line in lines] for group, lines in PROJECT["optional-dependencies"].items()}
IMPORTED_AS = {
    "imageio-ffmpeg": "imageio_ffmpeg",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
    "umap-learn": "umap",
}
"""Packages whose module has another name."""


def modules_of(path: Path) -> set[str]:
    """Top-level modules that a file imports, also within functions; its own package's left out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found - {"cryomorph"}


IMPORTED = set().union(*(modules_of(path) for path in SOURCE.rglob("*.py"))) - sys.stdlib_module_names


def module_name(package: str) -> str:
    return IMPORTED_AS.get(package, package.replace("-", "_"))


def bound(requirement: Requirement) -> Version:
    """The lower bound of a requirement."""
    return Version(next(part.version for part in requirement.specifier if part.operator == ">="))


def test_every_dependency_is_imported_and_every_import_is_a_dependency():
    declared = {module_name(needed.name) for needed in (*NEEDED, *OPTIONAL["mp4"])}
    assert declared == IMPORTED


def test_every_dependency_has_a_lower_bound_and_nothing_else():
    """`make lowest` reads them, and an upper bound would keep others from installing the package."""
    for needed in (*NEEDED, *OPTIONAL["mp4"]):
        assert [part.operator for part in needed.specifier] == [">="], needed


def test_torch_is_new_enough_for_its_own_muon():
    torch = next(needed for needed in NEEDED if needed.name == "torch")
    assert bound(torch) >= Version("2.9")  # the first release with torch.optim.Muon


def test_what_is_needed_is_pinned_above_its_lower_bound():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): Version(version) for name, version in map(_pin, lines)}
    for needed in (*NEEDED, *(one for group in OPTIONAL.values() for one in group)):
        assert needed.specifier.contains(pinned[re.sub(r"[-_.]+", "-", needed.name).lower()]), needed


def _pin(line: str) -> tuple[str, str]:
    name, version = line.split("==")
    return name, version


def test_the_package_tells_type_checkers_that_it_is_typed():
    assert (SOURCE / "py.typed").is_file()
