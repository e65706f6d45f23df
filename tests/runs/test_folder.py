"""The run folder: started, opened, taken up and replaced only as asked, and every refusal in one sentence."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.config.errors import InputError
from cryomorph.io.mrc import read_map
from cryomorph.representations.linear import LinearSubspace
from cryomorph.runs.checkpoint import save_tensors
from cryomorph.runs.folder import RunFolder

ASKED = {"method": "linear", "zdim": 4, "seed": 0, "images": {"box": None}}


def create(
    path: Path, config: dict[str, object] = ASKED, *, resume: bool = False, overwrite: bool = False
) -> RunFolder:
    with RunFolder.create(path, dict(config), resume=resume, overwrite=overwrite) as run:
        run.commit()
    return run


def start(path: Path, **changes: object) -> RunFolder:
    return create(path, {**ASKED, **changes})


def refused(sentence: str) -> pytest.RaisesExc[InputError]:
    return pytest.raises(InputError, match=f"^{re.escape(sentence)}$")


def test_a_new_run_says_what_was_asked_and_where_it_came_from(tmp_path):
    run = start(tmp_path / "deep" / "run")
    assert run.config() == ASKED
    assert run.provenance().command[0] == "cryomorph"
    assert not run.is_complete
    assert not run.has_consensus


def test_an_empty_folder_may_become_a_run(tmp_path):
    assert start(tmp_path).config() == ASKED


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    for resume, overwrite in ((False, False), (False, True), (True, False), (True, True)):
        with refused(f"{tmp_path} is not empty and holds no run: give another -o"):
            create(tmp_path, ASKED, resume=resume, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "all of it"


def test_a_file_in_the_way_is_said(tmp_path):
    (tmp_path / "run").write_text("")
    with refused(f"{tmp_path / 'run'} is a file: expected a folder for -o"):
        start(tmp_path / "run")


def test_a_run_is_neither_replaced_nor_resumed_unasked(tmp_path):
    start(tmp_path)
    with refused(f"{tmp_path} holds a run: --resume goes on with it, --overwrite replaces it"):
        start(tmp_path)


def test_overwrite_starts_anew(tmp_path):
    start(tmp_path).record(stage="linear", step=1)
    run = create(tmp_path, {**ASKED, "zdim": 2}, resume=False, overwrite=True)
    assert run.config()["zdim"] == 2
    assert not (tmp_path / "metrics.jsonl").exists()


def test_nothing_to_resume(tmp_path):
    with refused(f"{tmp_path / 'run'} holds no run to resume: omit --resume to start one"):
        create(tmp_path / "run", ASKED, resume=True, overwrite=False)
    assert not (tmp_path / "run").exists()


def test_resume_with_the_same_options_keeps_everything(tmp_path):
    start(tmp_path).record(stage="linear", step=1)
    before = (tmp_path / "provenance.json").read_bytes()
    run = create(tmp_path, dict(ASKED), resume=True, overwrite=False)
    assert (tmp_path / "metrics.jsonl").is_file()
    assert (run.path / "provenance.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"zdim": 6}, "zdim = 4 and is resumed with 6"),
        ({"method": "gaussians", "zdim": 9}, "method = 'linear' and is resumed with 'gaussians'"),
        ({"images": {"box": 32}}, "images.box = None and is resumed with 32"),
        ({"new": True}, "new = None and is resumed with True"),
    ],
)
def test_resume_with_other_options_names_the_first(tmp_path, changes, said):
    start(tmp_path)
    with refused(f"{tmp_path} was started with {said}: give the same options, or --overwrite to start again"):
        create(tmp_path, {**ASKED, **changes}, resume=True, overwrite=False)


def test_open_refuses_what_is_no_finished_run(tmp_path):
    with refused(f"{tmp_path} is not a run folder (it has no config.json): make one with `cryomorph train`"):
        RunFolder.open(tmp_path)
    start(tmp_path / "run")
    with refused(
        f"{tmp_path / 'run'} has no model.safetensors yet: "
        "finish it with the same `cryomorph train` command and --resume"
    ):
        RunFolder.open(tmp_path / "run")


def test_a_damaged_config_is_said(tmp_path):
    start(tmp_path)
    (tmp_path / "config.json").write_text('{"method": "lin')
    with pytest.raises(InputError, match=r"config\.json cannot be read .*--overwrite"):
        create(tmp_path, ASKED, resume=True, overwrite=False)
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        RunFolder(tmp_path).config()
    for content, said in (
        ("[1, 2]", "cannot be read"),
        ('"linear"', "cannot be read"),
        ("{}", "does not say 'method'"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match=rf"config\.json {said}.*: put it back"):
            RunFolder(tmp_path).config()
    (tmp_path / "provenance.json").unlink()
    with pytest.raises(InputError, match=r"provenance\.json cannot be read .*: put it back"):
        RunFolder(tmp_path).provenance()
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"config\.json does not say"):
        RunFolder.open(tmp_path)


def test_model_and_latent_round_trips(tmp_path):
    run = start(tmp_path)
    generator = torch.Generator().manual_seed(0)
    maps, mean, std = (torch.randn(shape, generator=generator) for shape in ((3, 8, 8, 8), (5, 2), (5, 2)))
    run.save_latent(mean, std.abs())
    run.save_model(LinearSubspace(maps), {"variance": torch.tensor([2.0, 1.0])})
    opened = RunFolder.open(tmp_path)
    np.testing.assert_array_equal(opened.latent_mean(), mean.numpy())
    np.testing.assert_array_equal(opened.latent_std(), std.abs().numpy())
    found = opened.representation()
    assert isinstance(found, LinearSubspace)
    assert torch.equal(found.maps, maps)
    assert torch.equal(opened.model_tensors()["variance"], torch.tensor([2.0, 1.0]))


def test_a_method_of_a_later_version_is_said(tmp_path):
    run = start(tmp_path)
    save_tensors(run.path / "model.safetensors", {"maps": torch.zeros(2, 8, 8, 8)}, method="telepathy")
    with pytest.raises(InputError, match="method 'telepathy' is not known here"):
        run.representation()


def test_a_damaged_model_is_said(tmp_path):
    run = start(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read \("):
        run.representation()


def test_a_latent_with_code_in_it_is_not_run(tmp_path):
    run = start(tmp_path)
    np.save(tmp_path / "latent_mean.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="allow_pickle"):
        run.latent_mean()


def test_metrics_and_log_are_appended(tmp_path, capsys):
    run = start(tmp_path)
    run.record(stage="linear", step=1, log_likelihood=-2.5)
    run.record(stage="linear", step=2, log_likelihood=-1.25)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [
        {"stage": "linear", "step": 1, "log_likelihood": -2.5},
        {"stage": "linear", "step": 2, "log_likelihood": -1.25},
    ]
    run.log("first")
    run.log("second")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d  ", "", line) for line in lines] == ["first", "second"]
    assert "second" in "".join(capsys.readouterr())


def test_store_that_is_gone_is_said(tmp_path, tiny_run):
    run = start(tmp_path / "run")
    moved = tmp_path / "store"
    shutil.copytree(tiny_run.store_path, moved)
    run.store_path.symlink_to(moved, target_is_directory=True)
    assert len(run.store()) == 400
    shutil.rmtree(moved)
    with refused(f"{run.store_path} points to {moved}, which is gone: put it back"):
        run.store()


@pytest.mark.parametrize("corrected", [True, False])
def test_consensus_of_a_run(tiny_run, tmp_path, corrected):
    """That of the corrected poses, where there is one."""
    tiny_run = RunFolder.open(shutil.copytree(tiny_run.path, tmp_path / "run", symlinks=True))
    folder = tiny_run.path / ("corrected_consensus" if corrected else "consensus")
    if not corrected:
        shutil.rmtree(tiny_run.path / "corrected_consensus")
    assert tiny_run.consensus_path == folder
    names = {path.name for path in folder.iterdir()}
    assert names == {"map.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "fsc.csv", "fsc.png", "spectra.safetensors"}
    for name in ("map", "half1", "half2", "mask"):
        data, pixel_A = read_map(folder / f"{name}.mrc")
        np.testing.assert_array_equal(tiny_run.consensus_map(name).numpy(), data)
        assert pixel_A == pytest.approx(16.0)
    with (folder / "fsc.csv").open() as file:
        rows = list(csv.DictReader(file))
    curves = tiny_run.consensus_fsc().by_name()
    assert set(curves) == {"unmasked", "masked", "phase_randomised", "corrected"}
    np.testing.assert_allclose(curves["masked"], [float(row["masked"]) for row in rows], rtol=1e-6)
    spectra = tiny_run.spectra()
    assert spectra.precision.shape == spectra.noise.shape == (9,)
    assert bool((spectra.precision > 0).all())


def test_a_run_that_cannot_be_replaced_comes_back(tmp_path):
    run = start(tmp_path / "run")
    (run.path / "kept").write_text("years of work")
    with RunFolder.create(run.path, {**ASKED, "zdim": 3}, resume=False, overwrite=True) as new:
        assert new.config()["zdim"] == 3 and not (new.path / "kept").exists()
        new.rollback()
    assert (run.path / "kept").read_text() == "years of work" and run.config() == ASKED
    with RunFolder.create(run.path, {**ASKED, "zdim": 3}, resume=False, overwrite=True) as new:
        new.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "provenance.json"]


def test_a_run_that_could_not_start_leaves_nothing(tmp_path):
    with RunFolder.create(tmp_path / "a" / "run", ASKED, resume=False, overwrite=False) as run:
        run.rollback()
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_locked_while_it_is_written(tmp_path):
    with (
        RunFolder.create(tmp_path, ASKED, resume=False, overwrite=False),
        pytest.raises(InputError, match="is being written by PID"),
    ):
        create(tmp_path, resume=True)
    create(tmp_path, resume=True)


def test_a_run_that_replaces_another_is_gone_on_with_or_begun_again(tmp_path):
    """Interrupted before the new one's particles were in order."""
    start(tmp_path, zdim=2)
    new = {**ASKED, "zdim": 3}

    def interrupted() -> None:
        with RunFolder.create(tmp_path, new, resume=False, overwrite=True):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert create(tmp_path, new, resume=True).config()["zdim"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "provenance.json"]


def test_what_a_kill_in_the_first_moment_leaves_is_taken(tmp_path):
    """By versions before this one too, which wrote the provenance first."""
    (tmp_path / "provenance.json").write_text("{}")
    (tmp_path / ".config-0a1b2c3d4e5f.json").write_text("{")
    assert create(tmp_path, overwrite=True).config() == ASKED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "provenance.json"]
    (tmp_path / "provenance.json").unlink()
    assert create(tmp_path, resume=True).provenance().command[0] == "cryomorph"


def test_reading_a_run_needs_no_torch(tiny_run):
    """Choosing and dividing particles answer at once."""
    code = (
        "import sys; from pathlib import Path\n"
        "from cryomorph.runs.folder import RunFolder\n"
        "from cryomorph.particles.subset import ParticleFile\n"
        "import cryomorph.io.output_folder, cryomorph.io.numbers, cryomorph.io.cryodrgn, cryomorph.io.structure\n"
        "run = RunFolder.open(Path(sys.argv[1])); run.config(); run.provenance(); run.latent(); run.consensus_fsc()\n"
        "file = ParticleFile.open(run.path / run.manifest().metadata)\n"
        "assert len(file) == run.manifest().n * run.copies == len(run.latent_mean())\n"
        "print([name for name in ('torch', 'scipy', 'sklearn', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny_run.path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_column_is_no_latent_space(tmp_path):
    np.save(tmp_path / "latent_std.npy", np.zeros(5))
    with pytest.raises(InputError, match=r"latent_std.npy has shape \(5,\), expected \(n, n\): train again"):
        RunFolder(tmp_path).latent_std()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00"])
def test_latent_points_that_are_cut_off_are_named(tmp_path, content):
    (tmp_path / "latent_mean.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"latent_mean.npy cannot be read \(.*\): train again"):
        RunFolder(tmp_path).latent_mean()
    with pytest.raises(InputError, match=r"latent_std.npy cannot be read \(.*\): train again"):
        RunFolder(tmp_path).latent_std()


@pytest.mark.parametrize(
    ("name", "kept", "said"),
    [
        ("latent_mean", (slice(100), slice(None)), "(100, 2), expected (400, n)"),
        ("latent_std", (slice(100), slice(None)), "(100, 2), expected (400, 2)"),
        ("latent_std", (slice(None), slice(1)), "(400, 1), expected (400, 2)"),
    ],
)
def test_latent_points_that_are_not_the_particles_are_refused(tiny_run, tmp_path, name, kept, said):
    run = RunFolder(shutil.copytree(tiny_run.path, tmp_path / "run", symlinks=True))
    mean, std = run.latent()
    np.testing.assert_array_equal(mean, tiny_run.latent_mean())
    np.testing.assert_array_equal(std, tiny_run.latent_std())
    np.save(run.path / f"{name}.npy", np.load(run.path / f"{name}.npy")[kept])
    with refused(f"{run.path / f'{name}.npy'} has shape {said}: train again with --overwrite"):
        run.latent()
