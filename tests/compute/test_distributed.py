"""Several processes as one training: a lone one, two in this process's stead, and two started by torchrun."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cryomorph.commands.train import train
from cryomorph.compute.distributed import Parallel, join_processes
from cryomorph.config.neural_field import NetworkConfig, NeuralFieldConfig
from cryomorph.config.training import TrainingConfig
from cryomorph.runs.folder import RunFolder
from cryomorph.training.batches import split_held_out

CPU = torch.device("cpu")

RANKS = """
import copy
from glob import glob
import torch
from cryomorph.training.optimise import Optimisers
from cryomorph.compute.distributed import join_processes

torch.set_num_threads(1)
with join_processes(torch.device("cpu")) as processes:
    rank = processes.rank
    assert processes.world_size == 2 and processes.is_rank_zero == (rank == 0)
    assert processes.all_reduce_sum(torch.tensor([1.0, 10.0 * rank])).tolist() == [2.0, 10.0]
    assert processes.all_reduce_max(5 + rank) == 6
    assert processes.broadcast_flag(rank == 0) and not processes.broadcast_flag(rank == 1)
    table = torch.full((5, 2), float(rank + 1))
    processes.all_gather_rows(table)
    assert table[:, 0].tolist() == [1, 2, 1, 2, 1]
    # rows that each process moved of those that are not held out: none is lost, wherever the gap is
    moved = torch.zeros(6, 1)
    moved[processes.shard(torch.tensor([0, 1, 3, 4, 5]))] = 1.0
    processes.all_gather_rows(moved)
    assert moved[:, 0].tolist() == [1, 1, 0, 1, 1, 1]
    layer = torch.nn.Linear(1, 1, bias=False)
    wrapped = processes.wrap(layer)
    wrapped(torch.tensor([[1.0 + 2 * rank]])).sum().backward()
    assert layer.weight.grad.item() == 2.0  # the mean of 1 and 3
    tensors = [torch.full((3,), float(rank == i % 2)) for i in range(5)]  # 1 where it is this process's own
    assert len(processes.owned(tensors)) == 3 - rank and all(t[0] == 1 for t in processes.owned(tensors))
    processes.broadcast(tensors)
    assert all(t.eq(1).all() for t in tensors)
    # each process orthogonalises its own matrices: as if one did all, the memory too
    torch.manual_seed(0)
    both = torch.nn.Sequential(*(torch.nn.Linear(6, 6) for _ in range(3)))
    lone = copy.deepcopy(both)
    shared, alone = Optimisers(both, "muon", parallel=processes), Optimisers(lone, "muon")
    for _ in range(3):
        for model, optimiser in ((both, shared), (lone, alone)):
            optimiser.zero_grad()
            model(torch.ones(2, 6)).square().sum().backward()
            optimiser.step(1e-2)
    shared.gather()
    assert all(torch.equal(a, b) for a, b in zip(both.parameters(), lone.parameters()))
    assert shared.state().keys() == alone.state().keys()
    assert all(torch.equal(value, alone.state()[name]) for name, value in shared.state().items())
    with processes.rank_zero_first() as alone:
        open(f"{rank}.order", "w").write(str(sorted(path for path in __import__("os").listdir() if "order" in path)))
    processes.barrier()
    del wrapped
# a thread of gloo's that is left when Python ends may abort the process, after all its work is done
left = [open(path).read().strip() for path in glob("/proc/self/task/*/comm")]
assert not [name for name in left if "gloo" in name], left
"""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def torchrun(*words: object, cwd: Path) -> None:
    """Two processes of a thread each, to their end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [*command, *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_lone_process_is_the_first_and_has_everything(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_processes(CPU) as alone:
        assert (alone.rank, alone.world_size, alone.is_rank_zero, alone.device) == (0, 1, True, CPU)
        index, value, layer = torch.arange(7), torch.tensor([1.0, 2.0]), nn.Linear(2, 2)
        assert torch.equal(alone.shard(index), index)
        assert torch.equal(alone.all_reduce_sum(value), value)
        assert alone.all_reduce_max(3) == 3
        assert alone.broadcast_flag(True) is True and alone.broadcast_flag(False) is False
        assert alone.wrap(layer) is layer
        alone.all_gather_rows(value)
        assert value.tolist() == [1, 2]
        alone.barrier()
        with alone.rank_zero_first() as first:
            assert first


@pytest.mark.parametrize("world", [2, 3, 8])
def test_the_shares_of_all_processes_are_disjoint_and_leave_none_out(world):
    held, trained = split_held_out(401, 0.05, 3)
    for index in (held, trained, torch.arange(5)):
        shares = [Parallel(rank, world, CPU).shard(index).tolist() for rank in range(world)]
        together = [i for share in shares for i in share]
        assert sorted(together) == index.tolist() and len(set(together)) == len(together)
        assert all(abs(len(share) - len(index) / world) < 0.1 * len(index) + 2 for share in shares)
        # by number alone: the owner of a particle is the same in every list
        assert all(i % world == rank for rank, share in enumerate(shares) for i in share)


def test_two_processes_add_up_agree_and_wait_for_the_first(tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    torchrun("ranks.py", cwd=tmp_path)
    assert (tmp_path / "0.order").read_text() == "['0.order']"
    assert (tmp_path / "1.order").read_text() == "['0.order', '1.order']"


def held_out_losses(run: RunFolder) -> list[float]:
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [row["held_out"] for row in rows if row["stage"] == "epoch"]


@pytest.mark.slow
def test_two_processes_end_with_a_run_as_good_as_one_s(tiny_set, tmp_path):
    """The same options alone and by torchrun: complete, spoken once, the same held-out particles, a loss as low."""
    options = ["--zdim", 2, "--width", 32, "--layers", 1, "--epochs", 3, "--warm-steps", 60, "--held-out", 0.1]
    options += ["--precision", "float32", "--device", "cpu", "--seed", 1]
    command = ["-m", "cryomorph.cli.main", "train", "neural-field", tiny_set / "particles.star"]
    torchrun(*command, "-o", tmp_path / "two", *options, cwd=tmp_path)
    two = RunFolder.open(tmp_path / "two")
    network = NetworkConfig(width=32, layers=1)
    training = TrainingConfig(epochs=3, held_out=0.1, precision="float32", device="cpu")
    asked = NeuralFieldConfig(tiny_set / "particles.star", tmp_path / "one", zdim=2, warm_steps=60, seed=1)
    one = train(replace(asked, network=network, training=training))
    assert two.config() == one.config()
    assert {path.name for path in two.path.iterdir()} == {path.name for path in one.path.iterdir()}
    assert "training on 2 cpu processes" in (two.path / "run.log").read_text()
    found, expected = held_out_losses(two), held_out_losses(one)
    assert len(found) == len(expected) == 3
    assert found[-1] == pytest.approx(expected[-1], rel=0.02)
    assert two.latent_mean().shape == (400, 2) and np.isfinite(two.latent_mean()).all()
    maps = [run.representation().volume(torch.zeros(2), 16).numpy().ravel() for run in (one, two)]
    assert np.corrcoef(maps)[0, 1] > 0.95
