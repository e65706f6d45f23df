"""Least values of options, such as 0 for a seed."""

from __future__ import annotations

from cryomorph.config.errors import InputError


def check_minimum(config: object, **least: int | float) -> None:
    """Refuse fields of a config that are below their least value; None, an open choice, passes.

    Raises:
        InputError: a value is too small.
    """
    for name, smallest in least.items():
        found = getattr(config, name)
        if found is not None and found < smallest:
            raise InputError(f"--{name.replace('_', '-')} {found}: expected {smallest} or more")
