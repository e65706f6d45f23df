"""Output folders: what is refused, what is replaced, and what a kill at any moment leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from cryomorph.config.errors import InputError
from cryomorph.io.atomic import temporary_path
from cryomorph.io.folder_lock import LOCK
from cryomorph.io.output_folder import Contents, OutputFolder
from cryomorph.io.owner import Owner

MAPS = Contents("landscape", ("states", "*.mrc", "pca/*.mrc"), marker="landscape.json")
MAPS = replace(MAPS, owned=(*MAPS.owned, MAPS.marker))
RUN = Contents("run", marker="config.json", whole=True)
OLD = {"landscape.json": "old", "a.mrc": "old", "states/0.txt": "old", "states/1.txt": "old", "pca/1.mrc": "old"}
NEW = {"landscape.json": "new", "a.mrc": "new", "b.mrc": "new", "states/0.txt": "new", "pca/2.mrc": "new", "x/y": "new"}
OTHERS = {"notes.txt": "mine", "pca/notes.txt": "mine", ".hidden": "mine"}


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def files(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def write(folder: Path, contents: Contents = MAPS, made: dict[str, str] = NEW, **options: object) -> None:
    with OutputFolder(folder, contents, **options) as output:  # type: ignore[arg-type]
        fill(output.scratch, made)
        output.commit()


def refused(sentence: str) -> pytest.RaisesExc[InputError]:
    return pytest.raises(InputError, match=re.escape(sentence))


# --- what is written and replaced -----------------------------------------------------------------------------------


def test_a_new_folder_has_what_was_built_and_nothing_else(tmp_path):
    write(tmp_path / "deep" / "out")
    assert files(tmp_path) == {f"deep/out/{name}": text for name, text in NEW.items()}
    assert sorted(path.name for path in (tmp_path / "deep" / "out").iterdir()) == [
        "a.mrc", "b.mrc", "landscape.json", "pca", "states", "x",
    ]  # fmt: skip


def test_the_process_has_begun_to_write_once_a_folder_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("cryomorph.io.output_folder.WRITING", begun := Event())
    with OutputFolder(tmp_path / "out", MAPS):
        assert begun.is_set()


def test_the_old_content_goes_and_what_others_wrote_stays(tmp_path):
    fill(tmp_path, OLD | OTHERS)
    write(tmp_path, overwrite=True)
    assert files(tmp_path) == NEW | OTHERS


def test_what_is_left_out_of_a_new_content_is_gone_with_its_folder(tmp_path):
    fill(tmp_path, OLD)
    write(tmp_path, made={"landscape.json": "new"}, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["landscape.json"]


def test_a_file_that_gives_way_to_a_folder_and_the_other_way_round(tmp_path):
    fill(tmp_path, {"landscape.json": "old", "x": "a file", "b.mrc/inside": "a folder"})
    write(tmp_path, overwrite=True)
    assert files(tmp_path) == NEW


def test_without_commit_and_after_a_failure_everything_is_as_before(tmp_path):
    fill(tmp_path / "there", OLD | OTHERS)
    for folder in (tmp_path / "there", tmp_path / "deep" / "not there"):
        with OutputFolder(folder, MAPS, overwrite=True) as output:
            fill(output.scratch, NEW)
        with pytest.raises(KeyboardInterrupt), OutputFolder(folder, MAPS, overwrite=True) as output:
            fill(output.scratch, NEW)
            output.temporary("store").joinpath("x").touch()
            raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert files(tmp_path / "there") == OLD | OTHERS


def test_a_link_to_a_folder_is_followed(tmp_path):
    fill(tmp_path / "disk", OLD)
    (tmp_path / "out").symlink_to(tmp_path / "disk", target_is_directory=True)
    write(tmp_path / "out", overwrite=True)
    assert files(tmp_path / "disk") == NEW and (tmp_path / "out").is_symlink()


# --- what grows in place --------------------------------------------------------------------------------------------


def test_what_grows_in_place_is_kept_or_undone(tmp_path):
    fill(tmp_path, {"config.json": "old", "analysis/a": "old"})
    with OutputFolder(tmp_path, RUN, overwrite=True) as output:
        output.set_aside()
        fill(tmp_path, {"config.json": "new", "b": "new"})
        output.rollback()
    assert files(tmp_path) == {"config.json": "old", "analysis/a": "old"}
    with OutputFolder(tmp_path, RUN, overwrite=True) as output:
        output.set_aside()
        fill(tmp_path, {"config.json": "new", "b": "new"})
        output.commit()
        assert files(tmp_path).keys() == {"config.json", "b", LOCK}
    assert files(tmp_path) == {"config.json": "new", "b": "new"}


def test_what_could_not_begin_leaves_nothing(tmp_path):
    with OutputFolder(tmp_path / "a" / "run", RUN) as output:
        output.set_aside()
        fill(tmp_path / "a" / "run", {"config.json": "new", "b": "new"})
        output.rollback()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("resume", "kept"), [(True, "new"), (False, "old")])
def test_what_was_growing_when_interrupted_is_gone_on_with_or_undone(tmp_path, resume, kept):
    fill(tmp_path, {"config.json": "old"})
    with pytest.raises(KeyboardInterrupt), OutputFolder(tmp_path, RUN, overwrite=True) as output:
        output.set_aside()
        fill(tmp_path, {"config.json": "new"})
        raise KeyboardInterrupt
    with OutputFolder(tmp_path, RUN, overwrite=not resume, resume=resume):
        assert (tmp_path / "config.json").read_text() == kept
    assert files(tmp_path) == {"config.json": kept}


# --- a scratch folder that outlives an interruption ------------------------------------------------------------------


@pytest.mark.parametrize(("error", "kept"), [(KeyboardInterrupt, True), (InputError, False), (OSError, False)])
def test_a_part_is_kept_where_it_can_be_gone_on_with(tmp_path, error, kept):
    def build() -> None:
        with OutputFolder(tmp_path / "s", RUN, keep=True) as output:
            fill(output.scratch, {"half": "done"})
            raise error

    with pytest.raises(error):
        build()
    assert [path.name for path in tmp_path.iterdir()] == (["s.part"] if kept else [])
    with OutputFolder(tmp_path / "s", RUN, keep=True) as output:
        fill(output.scratch, {"config.json": "whole"})
        output.commit()
    assert files(tmp_path) == {"s/config.json": "whole"} | ({"s/half": "done"} if kept else {})


# --- refusals -------------------------------------------------------------------------------------------------------


def test_what_is_there_is_replaced_only_when_told(tmp_path):
    fill(tmp_path, OLD)
    with refused(f"{tmp_path} holds a landscape already: give --overwrite to replace it, or another -o"):
        write(tmp_path)
    with refused(f"{tmp_path} holds landscape already: give --overwrite to replace them, or another -o"):
        write(tmp_path, replace(MAPS, plural=True))
    write(tmp_path, replace(MAPS, unasked=True))
    assert files(tmp_path) == NEW


@pytest.mark.parametrize("contents", [MAPS, replace(MAPS, unasked=True), RUN])
def test_what_others_wrote_is_never_taken_for_ours(tmp_path, contents):
    fill(tmp_path, {"thesis.tex": "all of it", "a.mrc": "another's"})
    with refused(f"{tmp_path} is not empty and holds no {contents.name}: give another -o"):
        write(tmp_path, contents, overwrite=True)
    assert files(tmp_path) == {"thesis.tex": "all of it", "a.mrc": "another's"}


def test_what_others_wrote_may_lie_beside_where_that_is_said(tmp_path):
    shared = replace(MAPS, shared=True, marker="", guarded=("fsc.*",))
    fill(tmp_path, OTHERS)
    write(tmp_path, shared)
    assert files(tmp_path) == NEW | OTHERS
    with refused("holds a landscape already"):
        write(tmp_path, shared)
    fill(tmp_path / "two", {"fsc.csv": "another's"})
    with refused("holds a landscape already"):
        write(tmp_path / "two", shared)
    write(tmp_path / "two", shared, overwrite=True)
    assert (tmp_path / "two" / "fsc.csv").read_text() == "another's"


def test_files_of_ours_alone_are_ours_without_their_marker(tmp_path):
    fill(tmp_path, {"states/0.txt": "old", "a.mrc": "old"})
    write(tmp_path, overwrite=True)
    assert files(tmp_path) == NEW


def test_a_file_in_the_way_is_said(tmp_path):
    (tmp_path / "out").write_text("")
    with refused(f"{tmp_path / 'out'} is a file: expected a folder for -o"):
        write(tmp_path / "out")


def test_an_input_is_never_an_output(tmp_path):
    fill(tmp_path, {"out/landscape.json": "old", "out/mask.mrc": "mine", "link": ""})
    (tmp_path / "also").symlink_to(tmp_path / "out")
    with refused(f"{tmp_path / 'also'} is read, so it cannot be written too"):
        write(tmp_path / "also", inputs=(tmp_path / "out", None), overwrite=True)
    for name in ("out/mask.mrc", "also/mask.mrc"):
        with refused(f"{tmp_path / name} is read, and lies in {tmp_path / 'also'}, where it would be replaced"):
            write(tmp_path / "also", inputs=(tmp_path / name,), overwrite=True)
    fill(tmp_path, {"out/notes.txt": "mine"})
    write(tmp_path / "out", inputs=(tmp_path / "out" / "notes.txt",), overwrite=True)
    write(tmp_path / "out" / "inside", inputs=(tmp_path / "out",))
    assert not (tmp_path / "out" / "inside" / LOCK).exists()


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/version").exists(), reason="needs a place without rights")
def test_a_place_without_rights_is_said_at_once(tmp_path):
    """/proc refuses even root, as an archive's folder refuses others."""
    place = Path("/proc/cryomorph") if os.geteuid() == 0 else tmp_path / "archive"
    if os.geteuid():
        place.mkdir()
        place.chmod(0o500)
    with pytest.raises(InputError, match=r"out cannot be written to \(.*\): give another -o"):
        write(place / "out")


# --- locks ----------------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_by_name(tmp_path):
    with OutputFolder(tmp_path, MAPS):
        me = Owner.this()
        with refused(f"{tmp_path} is being written by PID {me.pid} ({me.command}) on {me.host} since "):
            write(tmp_path)
    write(tmp_path)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    pid = os.fork()
    if not pid:
        OutputFolder(tmp_path / "out", MAPS).__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert json.loads((tmp_path / "out" / LOCK).read_text())["pid"] == pid
    write(tmp_path / "out")
    assert files(tmp_path / "out") == NEW


def test_a_process_of_the_same_number_that_began_later_is_another(tmp_path):
    mine = Owner.this()
    if not mine.ticks:
        pytest.skip("this system does not say when a process began")
    (tmp_path / LOCK).write_text(replace(mine, ticks=mine.ticks - 1).text())
    write(tmp_path)


@pytest.mark.parametrize("content", ["", "{", '{"host": 1}', "\x00\xff"])
def test_a_lock_that_names_nobody_is_taken_over(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    write(tmp_path)
    assert files(tmp_path) == NEW


def test_the_lock_of_another_host_is_left_to_the_user(tmp_path):
    (tmp_path / LOCK).write_text(Owner("far", 7, 0, "2026-01-01T00:00:00", "cryomorph train linear").text())
    said = f"{tmp_path} is being written by PID 7 (cryomorph train linear) on far since 2026-01-01T00:00:00: if that "
    with refused(said + f"process has ended, remove {tmp_path / LOCK}, or give another -o"):
        write(tmp_path)


def test_the_lock_of_a_job_that_was_put_back_into_the_queue_is_taken_over(tmp_path, monkeypatch):
    """Its node may have failed: the job goes on at another."""
    dead = Owner("far", 7, 0, "2026-01-01T00:00:00", "cryomorph train linear", job="12", restart=0)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    (tmp_path / LOCK).write_text(dead.text())
    with refused("is being written by PID 7"):
        write(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    (tmp_path / LOCK).write_text(replace(dead, job="13").text())
    with refused("is being written by PID 7"):
        write(tmp_path)
    (tmp_path / LOCK).write_text(dead.text())
    write(tmp_path)
    assert files(tmp_path) == NEW


def test_of_many_processes_one_writes_at_a_time(tmp_path):
    """Each leaves its number in a log while it holds the lock: begin and end of one are never parted."""
    log, children = tmp_path / "log", []
    for _ in range(8):
        pid = os.fork()
        if not pid:
            until = time.monotonic() + 20
            while time.monotonic() < until:
                try:
                    with OutputFolder(tmp_path / "out", MAPS, overwrite=True) as output:
                        for _ in range(2):
                            with log.open("a") as file:
                                file.write(f"{os.getpid()}\n")
                            time.sleep(0.01)
                        fill(output.scratch, NEW)
                        output.commit()
                    os._exit(0)
                except InputError:
                    time.sleep(0.005)
            os._exit(1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 8
    lines = log.read_text().split()
    assert lines[::2] == lines[1::2] and sorted(lines[::2]) == sorted(map(str, children))
    assert files(tmp_path / "out") == NEW


def test_a_folder_in_which_another_writes_is_not_replaced(tmp_path):
    fill(tmp_path, {"config.json": "old"})
    with OutputFolder(tmp_path / "analysis", MAPS), refused("analysis is being written by PID"):
        write(tmp_path, RUN, overwrite=True)
    assert files(tmp_path) == {"config.json": "old"}


# --- what a kill leaves ---------------------------------------------------------------------------------------------


def killed_at(number: int, work) -> bool:
    """Do some work in another process that is killed before its nth rename; whether it came so far."""
    pid = os.fork()
    if not pid:
        calls = iter(range(10**6))
        for name in ("rename", "replace"):
            real = getattr(os, name)

            def counted(*args, _real=real, **kwargs):
                if next(calls) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return _real(*args, **kwargs)

            setattr(os, name, counted)
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def test_a_kill_at_any_rename_leaves_the_old_or_the_new(tmp_path):
    for number in range(100):
        folder = tmp_path / str(number)
        fill(folder, OLD | OTHERS)
        if not killed_at(number, lambda folder=folder: write(folder, overwrite=True)):
            break
        with OutputFolder(folder, MAPS, overwrite=True):
            found = {name: text for name, text in files(folder).items() if name != LOCK}
            assert found in (OLD | OTHERS, NEW | OTHERS)
        assert files(folder) == found
        write(folder, overwrite=True)
        assert files(folder) == NEW | OTHERS
    assert 8 < number < 99


def test_a_kill_at_any_rename_of_a_first_content(tmp_path):
    for number in range(100):
        folder = tmp_path / str(number)
        done = not killed_at(number, lambda folder=folder: write(folder))
        if done:
            break
        whole = MAPS.known(folder)
        write(folder, overwrite=whole)
        assert files(folder) == NEW
    assert 3 < number < 99


def test_a_kill_at_any_rename_of_what_grows_in_place(tmp_path):
    old, new = {"config.json": "old", "b/c": "old", "d": "old"}, {"config.json": "new", "e": "new"}

    def grow(folder: Path) -> None:
        with OutputFolder(folder, RUN, overwrite=True) as output:
            output.set_aside()
            fill(folder, new)
            output.commit()

    for number in range(100):
        folder = tmp_path / str(number)
        fill(folder, old)
        if not killed_at(number, lambda folder=folder: grow(folder)):
            break
        with OutputFolder(folder, RUN, overwrite=True):
            assert {name: text for name, text in files(folder).items() if name != LOCK} in (old, new)
        grow(folder)
        assert files(folder) == new
    assert 3 < number < 99


def test_a_kill_while_the_old_comes_back(tmp_path):
    """A rollback that is killed is ended by the next command, at whatever rename."""
    old = {"config.json": "old", "b/c": "old", "d": "old"}

    def grow(folder: Path) -> None:
        with OutputFolder(folder, RUN, overwrite=True) as output:
            output.set_aside()
            fill(folder, {"b/c": "new", "e": "new"})
            output.rollback()

    for number in range(100):
        folder = tmp_path / str(number)
        fill(folder, old)
        if not killed_at(number, lambda folder=folder: grow(folder)):
            break
        with OutputFolder(folder, RUN, overwrite=True):
            pass
        assert files(folder) == old
    assert 6 < number < 99


def test_leftovers_of_dead_processes_go_and_a_folder_of_them_is_empty(tmp_path):
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    mine, dead = f"{os.getpid():08x}", f"{pid:08x}"
    host = temporary_path(tmp_path / "x").name.removeprefix(".x-")[:8]
    gone = [
        f".config-{host}{dead}00000000.json",
        f"consensus/.fsc-{host}{dead}00000000.png",
        f".new-{host}{dead}00000000/map.mrc",
        ".report-0a1b2c3d4e5f.html",
        ".landscape-ab_12cd3/map.mrc",
    ]
    stays = [
        f".chosen-{host}{mine}00000000.star",
        f".far-00000000{dead}00000000.star",
        ".settings-mine",
        ".a-0a1b2c3d.x",
    ]
    fill(tmp_path, dict.fromkeys(gone, ""))
    with OutputFolder(tmp_path, MAPS):
        pass
    assert files(tmp_path) == {}
    fill(tmp_path, dict.fromkeys((*gone, *stays), "") | OLD)
    with OutputFolder(tmp_path, MAPS, overwrite=True):
        pass
    assert files(tmp_path) == dict.fromkeys(stays, "") | OLD


def test_leftovers_in_a_folder_that_another_writes_stay(tmp_path):
    fill(tmp_path, OLD | {"analysis/.report-0a1b2c3d4e5f.html": ""})
    with OutputFolder(tmp_path / "analysis", replace(MAPS, shared=True)):
        fill(tmp_path, {"analysis/.report-0a1b2c3d4e5f.html": ""})
        with OutputFolder(tmp_path, MAPS, overwrite=True):
            pass
        assert (tmp_path / "analysis" / ".report-0a1b2c3d4e5f.html").exists()


def test_what_a_kill_left_in_a_folder_below_is_ended(tmp_path):
    fill(tmp_path / "landscape", OLD)
    assert killed_at(4, lambda: write(tmp_path / "landscape", overwrite=True))
    assert files(tmp_path / "landscape") != OLD
    fill(tmp_path, {"config.json": ""})
    with OutputFolder(tmp_path, RUN, resume=True):
        assert files(tmp_path / "landscape") == OLD
