"""Devices, number formats and compilers: what is chosen, what is refused, and what happens without a compiler."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from cryomorph.config.errors import InputError
from cryomorph.config.training import TrainingConfig
from cryomorph.physics.disk import fourier_disk
from cryomorph.physics.pose import random_rotations
from cryomorph.representations.linear import LinearSubspace
from cryomorph.representations.neural_field import FieldNetwork
from cryomorph.training import device
from cryomorph.training.device import choose_device, choose_precision, compile_network, product_seconds

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


def test_the_number_format_is_bfloat16_where_the_machine_multiplies_it_faster(monkeypatch):
    plan = TrainingConfig()
    for seconds, expected in ((0.2, "bfloat16"), (0.6, "bfloat16"), (0.9, "float32"), (3.0, "float32")):
        taken = {torch.float32: 1.0, torch.bfloat16: seconds}
        monkeypatch.setattr(device, "product_seconds", taken.__getitem__)
        assert choose_precision(plan, CPU).precision == expected
    for capability, expected in (((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert choose_precision(plan, torch.device("cuda")).precision == expected


def test_a_product_takes_time():
    assert 0 < product_seconds(torch.float32) < 1


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
    assert "no-such-compiler" in said[0] and "training goes on without, more slowly" in said[0] and "\n" not in said[0]
    assert torch.equal(answers(field), before)
    assert all(weight.grad is None for weight in field.parameters())


def test_any_failure_of_a_compiler_is_survived(make_model, monkeypatch, said):
    def broken(*_):
        raise ValueError

    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: setattr(self, "_compiled_call_impl", broken))
    field = make_model().representation
    before = answers(field)
    assert compile_network(field, "yes", CPU) is False
    assert said == ["the network is not compiled (ValueError): training goes on without, more slowly"]
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
