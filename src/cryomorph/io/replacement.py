"""Old content of a folder put away while new content takes its place; a kill at any moment leaves one of the two.

.replacing    the old content on its way out, or back: after a kill it is moved back
.replaced     the old content, all of it, while the new is put in its place: after a kill the new content is removed
              and the old moved back, unless the new is whole
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path, temporary_path

REPLACING, REPLACED = ".replacing", ".replaced"
OLD, PLAN = "old", "plan.json"


@dataclass(frozen=True)
class Plan:
    """What takes the place of the old content: its files, None for whatever the folder will hold.

    `marker` is the file that comes last; empty where there is none.
    """

    marker: str
    coming: list[str] | None


def set_aside(folder: Path, paths: Iterable[Path], plan: Plan) -> None:
    """Put paths of a folder away, in the order given, until `drop` or `restore`."""
    journal = folder / REPLACING
    (journal / OLD).mkdir(parents=True)
    with atomic_path(journal / PLAN) as part:
        part.write_text(json.dumps(asdict(plan)))
    for path in paths:
        if path.exists() or path.is_symlink():
            target = journal / OLD / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
            remove_empty(path.parent, folder)
    journal.rename(folder / REPLACED)


def drop(folder: Path) -> None:
    """Forget the old content; from the rename on it is a leftover."""
    if (folder / REPLACED).is_dir():
        gone = temporary_path(folder / "old")
        (folder / REPLACED).rename(gone)
        shutil.rmtree(gone)


def restore(folder: Path) -> None:
    """Remove the new content and move the old back."""
    coming = _plan(folder).coming
    if coming is None:
        for path in folder.iterdir():
            if not path.name.startswith("."):
                remove(path)
    for path in (folder / name for name in coming or ()):
        path.unlink(missing_ok=True)
        remove_empty(path.parent, folder)
    (folder / REPLACED).rename(folder / REPLACING)
    _move_back(folder)


def recover(folder: Path, *, resume: bool = False) -> None:
    """End what a killed process began.

    Args:
        resume: whether a new content of unknown files is kept where its marker is there; else the old comes back.
    """
    if (folder / REPLACED).is_dir():
        plan = _plan(folder)
        whole = bool(plan.marker) and (folder / plan.marker).exists()
        if whole and (resume or plan.coming is not None):
            drop(folder)
        else:
            restore(folder)
    elif (folder / REPLACING).is_dir():
        _move_back(folder)


def move_into(folder: Path, source: Path, *, last: str = "") -> None:
    """Move everything in `source` into a folder, one file last; what the folder has of other names stays."""
    first, _, rest = last.partition("/")
    for path in sorted(source.iterdir(), key=lambda path: path.name == first):
        target = folder / path.name
        if path.is_dir() and not path.is_symlink() and target.is_dir():
            move_into(target, path, last=rest if path.name == first else "")
        else:
            path.rename(target)
    source.rmdir()


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_empty(folder: Path, above: Path) -> None:
    """Remove a folder in which nothing is left, and those around it, below another."""
    while folder != above and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _move_back(folder: Path) -> None:
    journal = folder / REPLACING
    if (journal / OLD).is_dir():
        move_into(folder, journal / OLD)
    shutil.rmtree(journal)


def _plan(folder: Path) -> Plan:
    path = folder / REPLACED / PLAN
    try:
        return Plan(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): {path.parent / OLD} holds the older content, move or remove it by hand"
        ) from error
