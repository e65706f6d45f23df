"""Which device is chosen, and what is refused."""

from __future__ import annotations

import pytest
import torch

from cryomorph.compute.device import choose_device
from cryomorph.config.errors import InputError

CPU = torch.device("cpu")


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    for there, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device("auto").type == expected
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("asked", ["tpu9", "gpu", "", "meta", "cuda:x"])
def test_devices_that_are_none_are_refused_by_name(asked):
    with pytest.raises(InputError, match=f"--device {asked}: .*expected auto, cpu, cuda or cuda:0"):
        choose_device(asked)


def test_a_gpu_that_is_not_there_is_refused_with_their_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="--device cuda:2: torch can use 2 GPUs"):
        choose_device("cuda:2")
