"""Where a run came from: facts that are true of this process, in JSON that is whole."""

from __future__ import annotations

import json
import platform
import sys
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import pytest

from cryomorph import __version__
from cryomorph.config.errors import InputError
from cryomorph.io.json_file import write_json
from cryomorph.runs.provenance import LIBRARIES, Provenance


def test_facts_are_those_of_this_process(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/cryomorph", "train", "linear", "a.star"])
    found = Provenance.of_this_process()
    assert found.command == ["cryomorph", "train", "linear", "a.star"]
    assert found.cryomorph == __version__
    assert found.python == platform.python_version()
    assert found.libraries == {name: version(name) for name in LIBRARIES}
    age = datetime.now(UTC) - datetime.fromisoformat(found.started)
    assert timedelta(0) <= age < timedelta(minutes=1)


def test_facts_are_read_back_as_written(tmp_path):
    facts = Provenance.of_this_process()
    facts.write(tmp_path)
    assert json.loads((tmp_path / "provenance.json").read_text())["platform"] == platform.platform()
    assert Provenance.read(tmp_path) == facts


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"command": "train"}', b"\xff\xfe", b'{"cryomorph": NaN}', b"[" * 100_000]
)
def test_damaged_facts_are_said(tmp_path, content):
    (tmp_path / "provenance.json").write_bytes(content)
    with pytest.raises(InputError, match=r"provenance\.json cannot be read \(.*\): put it back, or train again"):
        Provenance.read(tmp_path)


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / "p.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1
