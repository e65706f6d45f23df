"""Options renamed since the last version; old command lines and config files still work.

`OPTIONS` maps an old word of the command line, without its dashes, to the new one; `FIELDS` the same for the keys of
a `config.json`.
"""

from __future__ import annotations

from typing import Any

OPTIONS: dict[str, str] = {
    "linear-band": "linear-radius",
    "first-band": "first-radius",
    "band-share": "radius-share",
    "encoder-band": "encoder-radius",
    "search-band": "search-radius",
    "start-band": "start-radius",
    "apix": "pixel-A",
}
FIELDS: dict[str, str] = {old.replace("-", "_"): new.replace("-", "_") for old, new in OPTIONS.items()}
LISTS = ("passthrough",)  # keys that held one value, or null


def current_keys(config: dict[str, Any]) -> dict[str, Any]:
    """A config file's content, nested parts included, with old keys under their present names."""
    return {FIELDS.get(key, key): _current(key, value) for key, value in config.items()}


def _current(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return current_keys(value)
    if key in LISTS and not isinstance(value, list):
        return [] if value is None else [value]
    return value
