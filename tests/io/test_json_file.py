"""JSON files: whole or not at all, and dataclasses of them or a sentence."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cryomorph.config.errors import InputError
from cryomorph.io.json_file import read_json, read_record, write_json


@dataclass(frozen=True)
class Toy:
    """A record of this test."""

    name: str
    count: int
    shares: list[float]
    note: str | None = None


def test_a_record_is_read_back_as_written(tmp_path):
    write_json(tmp_path / "a.json", {"name": "x", "count": 3, "shares": [1, 0.5], "more": 1})
    assert read_record(Toy, tmp_path / "a.json", again="make it again") == Toy("x", 3, [1.0, 0.5])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Expecting value"),
        (b"[]", "a JSON list, expected an object"),
        (b'{"name": "x\xff"}', "codec can't decode"),
        (b'{"name": "x", "count": 1}', "shares: field required"),
        (b'{"name": "x", "count": "many", "shares": []}', "count: input should be a valid integer"),
        (b'{"name": "x", "count": 1, "shares": [null]}', r"shares\.0: input should be a valid number"),
        (b'{"name": "x", "count": 1, "shares": [NaN]}', "NaN is no number"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_damaged_record_is_said_in_one_sentence(tmp_path, content, said):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.json cannot be read \(.*{said}.*\): make it again$") as refused:
        read_record(Toy, tmp_path / "a.json", again="make it again")
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(InputError, match=r"a\.json cannot be read \(No such file or directory\): make it again"):
        read_json(tmp_path / "a.json", again="make it again")
