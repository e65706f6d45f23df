"""Tensors on disk: exact, whole or not there, and damage that is said."""

from __future__ import annotations

import pytest
import torch

from cryomorph.config.errors import InputError
from cryomorph.runs.checkpoint import load_tensors, save_tensors


def test_round_trip_is_exact(tmp_path):
    tensors = {
        "a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        "turned": torch.arange(12.0).reshape(3, 4).T,
        "count": torch.tensor([2**40, -1]),
        "empty": torch.zeros(0, 3),
    }
    save_tensors(tmp_path / "deep" / "t.safetensors", tensors, step="7", method="linear")
    found, facts = load_tensors(tmp_path / "deep" / "t.safetensors")
    assert facts == {"step": "7", "method": "linear"}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) and found[name].dtype == tensors[name].dtype for name in tensors)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["t.safetensors"]


def test_facts_may_be_absent(tmp_path):
    save_tensors(tmp_path / "t.safetensors", {"a": torch.ones(2)})
    assert load_tensors(tmp_path / "t.safetensors")[1] == {}


def test_an_old_file_is_replaced_whole(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.ones(1000)})
    save_tensors(path, {"b": torch.zeros(2)})
    assert list(load_tensors(path)[0]) == ["b"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.ones(2)})

    def full(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cryomorph.runs.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_tensors(path, {"b": torch.zeros(2)})
    assert torch.equal(load_tensors(path)[0]["a"], torch.ones(2))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "header"])
def test_a_damaged_file_is_said(tmp_path, damage):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.randn(100)})
    whole = path.read_bytes()
    broken = {"cut": whole[:-50], "empty": b"", "text": b"not a tensor at all", "header": b"\xff" * 16 + whole[16:]}
    path.write_bytes(broken[damage])
    with pytest.raises(InputError, match=r"t\.safetensors cannot be read \(.*train again"):
        load_tensors(path)
