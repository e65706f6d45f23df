"""Devices, number formats and compilers: what is chosen, what is refused, and what happens without a compiler."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from cryomorph.compute import precision as machine
from cryomorph.config.training import TrainingConfig
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations
from cryomorph.representations.field_network import FieldNetwork
from cryomorph.representations.linear import LinearSubspace
from cryomorph.training import device
from cryomorph.training.device import choose_precision, compile_network

CPU = torch.device("cpu")


def test_the_number_format_is_bfloat16_where_the_machine_multiplies_it_faster(monkeypatch):
    plan = TrainingConfig()
    for seconds, expected in ((0.2, "bfloat16"), (0.6, "bfloat16"), (0.9, "float32"), (3.0, "float32")):
        taken = {torch.float32: 1.0, torch.bfloat16: seconds}
        monkeypatch.setattr(machine, "product_seconds", taken.__getitem__)
        assert choose_precision(plan, CPU).precision == expected
    for capability, expected in (((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert choose_precision(plan, torch.device("cuda")).precision == expected


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_a_number_format_that_was_asked_for_is_kept(asked):
    plan = TrainingConfig(precision=asked)
    assert choose_precision(plan, CPU) is plan


@pytest.fixture
def said(monkeypatch):
    """What the user is warned of."""
    warnings: list[str] = []
    monkeypatch.setattr(device, "warn", warnings.append)
    return warnings


@pytest.fixture
def unchecked(monkeypatch):
    """The network without the shape checks of the tests, which torch cannot capture."""
    monkeypatch.setattr(FieldNetwork, "forward", inspect.unwrap(FieldNetwork.forward))
    torch._dynamo.reset()


def answers(field):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return field.slices(torch.randn(3, 2, generator=generator), random_rotations(3, generator), fourier_disk(16))


def test_without_a_compiler_training_goes_on_and_says_so(make_model, monkeypatch, said, unchecked, tmp_path):
    """Torch's own refusal, where it finds no compiler of C++."""
    import torch._inductor.config as settings

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(settings.cpp, "cxx", (None, "no-such-compiler"))
    field = make_model().representation
    before = answers(field)
    assert compile_network(field, "yes", CPU) is False
    assert len(said) == 1
    assert (
        "no-such-compiler" in said[0] and "training continues without, more slowly" in said[0] and "\n" not in said[0]
    )
    assert torch.equal(answers(field), before)
    assert all(weight.grad is None for weight in field.parameters())


def test_any_failure_of_a_compiler_is_survived(make_model, monkeypatch, said):
    def broken(*_):
        raise ValueError

    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: setattr(self, "_compiled_call_impl", broken))
    field = make_model().representation
    before = answers(field)
    assert compile_network(field, "yes", CPU) is False
    assert said == ["the network could not be compiled (ValueError): training continues without, more slowly"]
    assert torch.equal(answers(field), before)


def test_a_compiled_network_answers_as_before_and_keeps_its_names(make_model, monkeypatch, said, unchecked):
    """Compiled by torch's capture alone, without machine code, which takes half a minute."""
    whole = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: whole(self, backend="eager", **options))
    field = make_model().representation
    before, names = answers(field), list(field.state_dict())
    assert compile_network(field, "yes", CPU) is True
    torch.testing.assert_close(answers(field), before)
    assert list(field.state_dict()) == names and not said
    assert all(weight.grad is None for weight in field.parameters())


def test_nothing_is_compiled_unless_asked_for_or_on_a_gpu(make_model, monkeypatch):
    monkeypatch.setattr(nn.Module, "compile", lambda *_, **__: pytest.fail("compiled"))
    field = make_model().representation
    assert compile_network(field, "no", CPU) is False
    assert compile_network(field, "no", torch.device("cuda")) is False
    assert compile_network(field, "auto", CPU) is False
    assert compile_network(LinearSubspace(torch.zeros(1, 8, 8, 8)), "yes", CPU) is False
