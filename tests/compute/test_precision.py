"""When bfloat16 is worth it."""

from __future__ import annotations

import pytest
import torch

from cryomorph.compute import precision
from cryomorph.compute.precision import bfloat16_pays, product_seconds


@pytest.mark.parametrize(("half", "pays"), [(1.0, True), (2.9, False), (4.0, False)])
def test_bfloat16_must_win_by_half_as_much_again(monkeypatch, half, pays):
    monkeypatch.setattr(precision, "product_seconds", lambda kind: half if kind == torch.bfloat16 else 4.0)
    assert bfloat16_pays(torch.device("cpu")) is pays


def test_a_product_takes_time():
    assert 0 < product_seconds(torch.float32) < 10
