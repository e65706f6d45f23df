"""Sessions and methods: a stage that comes too early is a bug, and says so."""

from __future__ import annotations

import pytest
import torch

from cryomorph.compute.distributed import Parallel
from cryomorph.config.errors import InputError
from cryomorph.config.linear import LinearConfig
from cryomorph.config.methods import method_of
from cryomorph.encoders.base import EncoderNetwork
from cryomorph.encoders.table import TableEncoder
from cryomorph.methods.linear import LINEAR
from cryomorph.models.registry import facts_of, network_kind
from cryomorph.representations.base import Representation
from cryomorph.runs.folder import RunFolder
from cryomorph.training.session import Result, Session


@pytest.fixture
def session(tiny_store, tmp_path) -> Session[LinearConfig]:
    alone = Parallel(0, 1, torch.device("cpu"))
    config = LinearConfig(tiny_store.folder, tmp_path / "run", zdim=2)
    return Session(LINEAR, config, run=RunFolder(tmp_path / "run"), store=tiny_store, parallel=alone)


def test_what_no_stage_has_left_cannot_be_read(session):
    with pytest.raises(RuntimeError, match="no stage before this one sets 'consensus'"):
        _ = session.consensus
    assert isinstance(Session.consensus, Result)


def test_a_method_without_a_model_builds_none(session):
    with pytest.raises(RuntimeError, match="the method 'linear' has no model to build"):
        session.build()


def test_before_any_stage_particles_lie_under_a_standard_normal_prior(session, tiny_store):
    targets = session.initial_targets
    assert targets.point.shape == (len(tiny_store), 2) and not bool(targets.point.any())
    assert torch.equal(targets.spread, torch.ones_like(targets.spread))
    assert torch.equal(targets.prior_std, torch.ones(2))


def test_options_of_no_method_are_refused():
    with pytest.raises(InputError, match="dict is not the config of a method: expected one of linear, conv-volume"):
        method_of({})


class Unregistered(Representation):
    """A representation that no method names."""

    def slices(self, z, rotation, disk):
        raise NotImplementedError

    def volume(self, z, box):
        raise NotImplementedError


def test_what_no_method_registers_has_no_name_in_a_file():
    assert network_kind(TableEncoder(torch.zeros(1, 1), torch.ones(1, 1))) is None and network_kind(None) is None
    assert not issubclass(TableEncoder, EncoderNetwork) and not hasattr(TableEncoder, "of")
    with pytest.raises(TypeError, match=r"no method is registered with the representation .*:Unregistered"):
        facts_of(Unregistered())
    with pytest.raises(NotImplementedError, match="Unregistered cannot be restored"):
        Unregistered.restored({}, {})
