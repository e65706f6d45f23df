"""What every test may ask for; the package is imported in the fixtures, after jaxtyping hooked in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest
import torch

if TYPE_CHECKING:
    from cryomorph.runs.folder import RunFolder

pytest.register_assert_rewrite("fixtures.representation_contract")
pytest_plugins = ("fixtures.blobs", "fixtures.small_training")


@pytest.hookimpl(tryfirst=True)  # before the fixtures
def pytest_runtest_setup(item: pytest.Item) -> None:
    """One thread for every test, and messages on standard error as the command line writes them.

    Types and shapes of arguments are checked while a test runs, which doubles what a training takes. Tests that train
    again what others train with the checks are marked `unchecked`.

    On tiny tensors a second thread waits more than it works. The number is set every time, since other libraries change
    it, and with it the last digits that some tests compare.
    """
    from cryomorph.config.console import attach_console

    jaxtyping.config.update("jaxtyping_disable", item.get_closest_marker("unchecked") is not None)
    torch.set_num_threads(1)
    attach_console()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real files and the referee beside the checkout; its tests are skipped where it is not."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared beside this checkout")
    return folder


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hinge protein with its truth: 400 particles, box 16, little noise. Not to be written into."""
    from cryomorph.config.simulate import SimulateConfig
    from cryomorph.simulation.sets import simulate_set

    folder = tmp_path_factory.mktemp("tiny") / "set"
    return simulate_set(SimulateConfig("uniform", folder, n=400, box=16, pixel_A=16.0, snr=1.0, seed=3))


@pytest.fixture(scope="session")
def tiny_run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A linear run of the tiny set, two components. Not to be written into: copy it first."""
    from cryomorph.commands.train import train
    from cryomorph.config.linear import LinearConfig

    output = tmp_path_factory.mktemp("tiny") / "run"
    fixed = {"contrast": False, "fix_poses": True}  # so that results can be compared with the set as it was given
    return train(LinearConfig(tiny_set / "particles.star", output, zdim=2, iterations=2, seed=1, **fixed))
