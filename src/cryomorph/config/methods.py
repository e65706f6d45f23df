"""The methods that `cryomorph train` can fit: ours, and those that other packages register.

A package registers a method by an entry point of the group `cryomorph.methods` that names a `MethodEntry`:

    [project.entry-points."cryomorph.methods"]
    my-method = "my_package.options:METHOD"

An entry names classes as `module:object`, so that listing the methods imports their options and nothing else; its
module should not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from cryomorph.config.console import warn
from cryomorph.config.errors import InputError

GROUP = "cryomorph.methods"
OURS = {
    "linear": "cryomorph.config.linear:METHOD",
    "conv-volume": "cryomorph.config.conv_volume:METHOD",
    "gaussians": "cryomorph.config.gaussians:METHOD",
    "neural-field": "cryomorph.config.neural_field:METHOD",
}
"""Our own entry points, for a checkout that was not installed again since one was added."""


@dataclass(frozen=True)
class MethodEntry:
    """What is known of a method without importing its code."""

    name: str
    """The word of the command line, and `method` in a run's config.json."""
    config: type
    """Options: a frozen dataclass with a sentence for each field; the first line of its docstring is the summary."""
    method: str
    """The `cryomorph.training.method.Method`."""
    representation: str
    """The class of the method's maps, by which a run's model file is read."""
    encoders: Mapping[str, str] = field(default_factory=dict)
    """Classes of its encoder networks, by the name that a model file has for them."""

    @property
    def summary(self) -> str:
        """One line for the list of methods."""
        return (self.config.__doc__ or "").strip().split("\n")[0]


@cache
def methods() -> dict[str, MethodEntry]:
    """All methods by name: ours, then those of other packages.

    A method of another package that cannot be loaded, or has the name of one of ours, is left out with a warning.
    """
    found = {name: load(reference) for name, reference in OURS.items()}
    for point in entry_points(group=GROUP):
        if OURS.get(point.name) == point.value:
            continue
        package = "a package" if point.dist is None else point.dist.name
        if point.name in found:
            warn(f"the method '{point.name}' of {package} is left out: another method has that name")
            continue
        try:
            found[point.name] = load(point.value)
        except Exception as error:  # whatever another package may raise
            warn(f"the method '{point.name}' of {package} cannot be loaded and is left out: {error}")
    return found


def method_of(config: Any) -> MethodEntry:
    """The method whose options these are.

    Raises:
        InputError: no method has options of this class.
    """
    for entry in methods().values():
        if type(config) is entry.config:
            return entry
    raise InputError(f"{type(config).__name__} is not the config of a method: expected one of {', '.join(methods())}")


def load(reference: str) -> Any:
    """The object that `module:name` refers to."""
    module, name = reference.split(":")
    return getattr(import_module(module), name)


def reference_to(kind: type) -> str:
    """`module:name` of a class."""
    return f"{kind.__module__}:{kind.__qualname__}"
