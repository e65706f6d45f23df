"""Output folders: locked while they are written, replaced whole or not at all, sound after a kill at any moment.

    with OutputFolder(path, LANDSCAPE, inputs=(mask,), overwrite=config.overwrite) as output:
        ...  # compute, then write into output.scratch
        output.commit()

What is built lies hidden in the output folder itself (`.lock`, `.new-<token>`, and see `replacement`): no more is
needed than the right to write there, and whatever a kill leaves is found by the next command.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cryomorph.config.errors import InputError
from cryomorph.io.atomic import check_writable, is_leftover, is_temporary, refusal, same_place, temporary_path
from cryomorph.io.begun import WRITING
from cryomorph.io.folder_lock import LOCK, FolderLock, holder, in_use
from cryomorph.io.replacement import (
    REPLACED,
    REPLACING,
    Plan,
    drop,
    move_into,
    recover,
    remove,
    restore,
    set_aside,
)

CONTROL = frozenset((LOCK, REPLACING, REPLACED))


@dataclass(frozen=True)
class Contents:
    """What a command leaves in its folder.

    Args:
        name: in words, after "holds no", such as "landscape"; `plural` says whether it is one thing or several.
        owned: glob patterns of what is the command's, or a function that finds it in a folder: all of it is replaced.
            Whole folders may be among it.
        marker: the file that says that all is there: the last to come and the first to go.
        signs: other files that only this command leaves, where it was killed before the marker.
        whole: whether everything in the folder is replaced, whoever wrote it, once it is known by marker or signs.
        shared: whether files of others may be in the folder too; they stay.
        guarded: glob patterns of what is not replaced but needs `overwrite` all the same.
        unasked: whether an older one is replaced without `overwrite`.
    """

    name: str
    owned: Sequence[str] | Callable[[Path], Iterable[Path]] = ()
    marker: str = ""
    signs: tuple[str, ...] = ()
    plural: bool = False
    whole: bool = False
    shared: bool = False
    guarded: tuple[str, ...] = ()
    unasked: bool = False

    def known(self, folder: Path) -> bool:
        """Whether a folder is one of this command's."""
        return any((folder / name).exists() for name in (self.marker, *self.signs) if name)

    def found(self, folder: Path) -> list[Path]:
        """What an older one left in a folder; the marker first."""
        if self.whole:
            every = [path for path in folder.iterdir() if path.name not in CONTROL and not is_temporary(path)]
        elif callable(self.owned):
            every = list(self.owned(folder))
        else:
            every = [path for pattern in self.owned for path in folder.glob(pattern)]
        return sorted(dict.fromkeys(every), key=lambda path: (path != folder / self.marker, path))


class OutputFolder:
    """A folder that a command writes, taken by a `with` block: refused, or locked and cleaned.

    Args:
        inputs: files and folders that the command reads: an output is none of them, and replaces none of them.
        overwrite: whether an older content may be replaced.
        resume: whether the older content is gone on with: what has grown in place (`set_aside`) before a kill is kept.
        keep: whether the scratch folder is next to the output as `<name>.part`, and outlives an interruption.
    """

    def __init__(
        self,
        path: Path,
        contents: Contents,
        *,
        inputs: Iterable[Path | None] = (),
        overwrite: bool = False,
        resume: bool = False,
        keep: bool = False,
    ) -> None:
        self.path, self.contents = Path(path), contents
        self._inputs = [given for given in inputs if given is not None]
        self._overwrite, self._resume, self._keep = overwrite, resume, keep
        self._lock: FolderLock | None = None
        self._made: list[Path] = []
        self._scratch: Path | None = None
        self._temporary: list[Path] = []
        self._growing = False

    def __enter__(self) -> OutputFolder:
        """Take the folder.

        Raises:
            InputError: it is a file, holds what must not be replaced, is being written by another process, or is not
                writable.
        """
        self._refuse_place()
        WRITING.set()
        try:
            self._take()
            recover(self.path, resume=self._resume)
            clear_leftovers(self.path)
            self._refuse_contents()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kept = self._keep and error is not None and not isinstance(error, (InputError, OSError))
        if self._scratch is not None and kept and error is not None:
            error.add_note(f"what was finished is kept in {self._scratch}; the same command goes on from there")
        elif self._scratch is not None:
            self._temporary.append(self._scratch)
        self._close()

    @property
    def scratch(self) -> Path:
        """The folder to build in, made when it is first asked for."""
        if self._scratch is None:
            path = self.path.absolute()
            if self._keep:
                self._scratch = path.with_name(path.name + ".part")
                self._scratch.mkdir(exist_ok=True)
                clear_leftovers(self._scratch)
            else:
                self._scratch = temporary_path(path / "new")
                self._scratch.mkdir()
        return self._scratch

    def temporary(self, name: str) -> Path:
        """Another folder to work in, which is thrown away at the end."""
        path = temporary_path(self.path.absolute() / name)
        path.mkdir()
        self._temporary.append(path)
        return path

    def commit(self) -> None:
        """Put what was built, or has grown since `set_aside`, in the place of what was there, which is gone."""
        if self._scratch is not None:
            coming = [path.relative_to(self._scratch) for path in sorted(self._scratch.rglob("*")) if not path.is_dir()]
            clash = [self.path / path for path in coming]
            around = dict.fromkeys(self.path / folder for path in coming for folder in path.parents[:-1])
            clash += [folder for folder in around if not folder.is_dir()]
            plan = Plan(self.contents.marker, [path.as_posix() for path in coming])
            set_aside(self.path, [*self.contents.found(self.path), *clash], plan)
            move_into(self.path, self._scratch, last=self.contents.marker)
            self._scratch = None
        drop(self.path)
        self._growing = False

    def set_aside(self) -> None:
        """Put away what is there, so that new content grows in its place until `commit` or `rollback`."""
        found = self.contents.found(self.path)
        if found:
            set_aside(self.path, found, Plan(self.contents.marker, None))
        self._growing = True

    def rollback(self) -> None:
        """Remove what has grown since `set_aside` and bring back what was there."""
        if (self.path / REPLACED).is_dir():
            restore(self.path)
        elif self._growing:
            for path in self.contents.found(self.path):
                remove(path)
        self._growing = False

    def _refuse_place(self) -> None:
        for given in self._inputs:
            if same_place(self.path, given):
                raise InputError(f"{self.path} is read, so it cannot be written too: give another -o")
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: expected a folder for -o")
        if self._keep and self.path.absolute().is_mount():
            raise InputError(f"{self.path} is the root of a disk: give a folder on it as -o")

    def _refuse_contents(self) -> None:
        if next(_files(self.path), None) is None:
            return
        contents, ours = self.contents, self.contents.found(self.path)
        foreign = not contents.known(self.path) and (contents.whole or not _only(self.path, ours))
        if foreign and not contents.shared:
            raise InputError(f"{self.path} is not empty and holds no {contents.name}: give another -o")
        guarded = [path for pattern in contents.guarded for path in self.path.glob(pattern)]
        if (ours or guarded) and not (self._overwrite or self._resume or contents.unasked):
            one, them = ("", "them") if contents.plural else ("a ", "it")
            raise InputError(
                f"{self.path} holds {one}{contents.name} already: give --overwrite to replace {them}, or another -o"
            )
        if not self._resume:
            self._refuse_inputs([*ours, *guarded])
            self._refuse_parts(ours)

    def _refuse_inputs(self, ours: Iterable[Path]) -> None:
        """Refuse to replace what is read."""
        mine = {path.parent.resolve() / path.name for path in ours}  # of a link only the link goes
        for given in self._inputs:
            places = (given.absolute(), given.parent.resolve() / given.name, given.resolve())
            if any(mine & {place, *place.parents} for place in places):
                raise InputError(
                    f"{given} is read, and lies in {self.path}, where it would be replaced: copy it elsewhere"
                )

    def _refuse_parts(self, ours: Iterable[Path]) -> None:
        """Refuse to replace folders that are not writable, or that another process is writing to."""
        for path in ours:
            for folder in (path, *path.rglob("*")) if path.is_dir() and not path.is_symlink() else ():
                if folder.is_dir() and not folder.is_symlink():
                    check_writable(folder, self.path)
                    if (owner := holder(folder)) is not None:
                        raise InputError(in_use(folder, owner))

    def _take(self) -> None:
        """Make the folder and lock it."""
        path = self.path.absolute()
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._made = missing
            self._lock = FolderLock.acquire(self.path)
        except OSError as error:
            raise refusal(self.path, error) from error

    def _close(self) -> None:
        """Take away what is temporary, the lock, and folders that were made for nothing."""
        if self._lock is not None:
            if not self._growing:
                recover(self.path)
            for path in self._temporary:
                shutil.rmtree(path, ignore_errors=True)
            self._lock.release()
        for folder in self._made:
            with contextlib.suppress(OSError):  # not empty: it is the output
                folder.rmdir()


def clear_leftovers(folder: Path) -> None:
    """Remove what killed processes left below a folder; what others write, or is not ours to write, is left alone."""
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            if is_leftover(path):
                remove(path)
            elif path.is_dir() and not path.is_symlink() and path.name not in CONTROL and holder(path) is None:
                if any((path / name).exists() for name in CONTROL):
                    lock = FolderLock.acquire(path)
                    recover(path)
                    lock.release()
                clear_leftovers(path)


def _files(folder: Path) -> Iterator[Path]:
    """Everything below a folder but folders, and what is written for the moment."""
    for path in folder.iterdir():
        if path.name in CONTROL or is_temporary(path):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def _only(folder: Path, ours: Iterable[Path]) -> bool:
    """Whether a folder has nothing but what is ours, or lies in it."""
    mine = set(ours)
    return all(mine & {path, *path.parents} for path in _files(folder))
