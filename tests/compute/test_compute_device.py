"""What a machine is asked before models are evaluated on it."""

from __future__ import annotations

import pytest
import torch

from cryomorph.compute import device as machine
from cryomorph.compute.device import bfloat16_pays, choose_device, product_seconds
from cryomorph.config.errors import InputError

CPU = torch.device("cpu")


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    for there, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device("auto").type == expected
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("asked", ["tpu9", "gpu", "", "meta", "cuda:x"])
def test_devices_that_are_none_are_refused_by_name(asked):
    with pytest.raises(InputError, match=f"--device {asked}: .*expected cpu, cuda or cuda:0"):
        choose_device(asked)


def test_a_gpu_that_is_not_there_is_refused_with_their_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="--device cuda:2: this machine has 2 GPUs"):
        choose_device("cuda:2")


@pytest.mark.parametrize(("half", "pays"), [(1.0, True), (2.9, False), (4.0, False)])
def test_bfloat16_must_win_by_half_as_much_again(monkeypatch, half, pays):
    monkeypatch.setattr(machine, "product_seconds", lambda kind: half if kind == torch.bfloat16 else 4.0)
    assert bfloat16_pays(torch.device("cpu")) is pays


def test_a_product_takes_time():
    assert 0 < product_seconds(torch.float32) < 10
