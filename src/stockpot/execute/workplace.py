"""OUT.partial: where a merge is made, by one process at a time, until one rename makes it OUT.

::

    OUT.partial/
        README.txt   says what this is
        lock         held by the process at work
        journal      what is being made, and which tensors are finished
        model/       the output, every file at its final size
        previous/    an earlier OUT, for the moment in which it is replaced
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stockpot.checkpoint.storage import cannot_write, sync_folder, write_file
from stockpot.errors import CheckpointError, PlanError, Problem, StockpotError, StorageError
from stockpot.execute.fingerprint import changes
from stockpot.execute.journal import FORMAT, Journal, Past, read_journal
from stockpot.execute.lock import Lock
from stockpot.execute.receipt import read_receipt
from stockpot.planning.place import beside

__all__ = ["Workplace", "kept", "published"]

_README = """An unfinished merge, by stockpot.

The model is in the folder `model` and is NOT complete: its files have their final size from the start.
To continue, run the command that began it again: finished tensors are kept.
To begin again, run it with --restart. To give it up, delete this folder; but if it holds a folder
`previous`, that is the output that was there before: move it back first.
"""

_FILES = ("README.txt", "lock", "journal", "model", "previous")


def kept(out: Path) -> tuple[int, Path]:
    """(number of finished tensors, folder) of the unfinished merge into ``out``."""
    folder = beside(out)
    return len(read_journal(folder / "journal").finished), folder


def published(out: Path) -> bool:
    """Whether ``out`` is the output of a merge that was killed after it was complete, before it had cleaned up."""
    try:
        return out.stat().st_ino == read_journal(beside(out) / "journal").published
    except (OSError, StorageError):
        return False


class Workplace:
    """The folder OUT.partial of one merge, made by :meth:`claimed`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = beside(out)
        self.model = self.folder / "model"
        self._journal, self._previous = self.folder / "journal", self.folder / "previous"
        self._lock = Lock(self.folder / "lock", out)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[Workplace]:
        """The folder, made and locked.

        Raises:
            PlanError: when another process is at work there, or it holds something else.
        """
        try:
            try:
                self._claim()
                self._check_ours()
            except OSError as error:
                fix = cannot_write(self.folder, error).problems[0].fix or "choose a folder that you may write to"
                message = f"cannot create the output: {error.strerror or error}"
                raise PlanError(Problem(message, file=str(self.folder), fix=fix)) from error
            yield self
        finally:
            self._lock.release()
            self._remove_if_empty()

    def complete(self, fingerprint: Mapping[str, Any]) -> bool:
        """Whether the output is there already: made by this very merge, which died before it had cleaned up."""
        past = read_journal(self._journal)
        if not published(self.out) or changes(past.head, fingerprint):
            return False
        with contextlib.suppress(CheckpointError):
            written = {name: row["hash"] for name, row in read_receipt(self.out)["tensors"].items()}
            return written == {name: done.hash for name, done in past.finished.items()}
        return False

    def begin(self, fingerprint: Mapping[str, Any], *, overwrite: bool, restart: bool) -> tuple[Journal, Past | None]:
        """The journal, and what it told: None where there was nothing to continue.

        Raises:
            PlanError: when what is there is another merge, telling what has changed; when there is an output.
            StorageError: when the disk fails.
        """
        if published(self.out):
            self.discard()
        self._put_back()
        if os.path.lexists(self.out) and not overwrite:
            raise self._exists()
        past = None if restart else self._past(fingerprint)
        if past is None:
            self.discard()
        write_file(self.folder / "README.txt", (_README.encode(),))
        try:
            self.model.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(self.model, error) from error
        return Journal(self._journal, fingerprint, past), past

    def publish(self, journal: Journal, *, overwrite: bool, durable: bool) -> None:
        """Make ``model`` the output by one rename; an earlier output is deleted only after that, or goes back.

        Raises:
            PlanError: when there is an output that may not be replaced.
            StorageError: when the disk fails.
        """
        if os.path.lexists(self.out) and not overwrite:
            raise self._exists()
        if durable:
            for here, _, _ in os.walk(self.model):
                sync_folder(Path(here))
        try:
            journal.publishing(self.model.stat().st_ino, durable=durable)
            if os.path.lexists(self.out):
                self.out.rename(self._previous)
            self.model.rename(self.out)
        except OSError as error:
            with contextlib.suppress(StockpotError):
                self._put_back()
            raise cannot_write(self.out, error) from error
        if durable:
            sync_folder(self.out.absolute().parent)
        self.tidy()

    def discard(self) -> None:
        """Delete everything but the lock, the journal last; an earlier output only when it has been replaced.

        Raises:
            PlanError: when an earlier output is there whose place is taken.
            StorageError: when something cannot be deleted.
        """
        if not published(self.out):
            self._put_back()
        for path in (self._previous, self.model, self.folder / "README.txt", self._journal):
            try:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(path, error) from error

    def _past(self, fingerprint: Mapping[str, Any]) -> Past | None:
        """What an unfinished merge has left, if this one continues it; None when there is nothing."""
        past = read_journal(self._journal)
        if past.format in (None, FORMAT) and not past.finished:
            return None
        changed = changes(past.head, fingerprint)
        if past.format != FORMAT:
            changed = [f"versions: the journal was written in format {past.format}, this one is {FORMAT}"]
        if not changed:
            return past
        listed = "; ".join(changed[:5]) + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
        message = f"an unfinished merge lies there ({len(past.finished)} tensors are done), but since then: {listed}"
        fix = "put that back to continue, or begin again with --restart (in Python: restart=True)"
        raise PlanError(Problem(message, file=str(self.folder), fix=fix))

    def _exists(self) -> PlanError:
        return PlanError(Problem("the output exists", file=str(self.out), fix="give --overwrite"))

    def tidy(self) -> None:
        """Delete everything but the lock; what cannot be deleted now is by the next merge into this output."""
        with contextlib.suppress(StockpotError):
            self.discard()

    def _claim(self) -> None:
        for _ in range(100):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                strange = sorted(self._names() - set(_FILES))
                if strange:
                    raise self._strange(strange[0])
                self._lock.take()
            except FileNotFoundError:
                continue  # another process has just finished and removed the folder
            except FileExistsError:
                if os.path.lexists(self.folder) and not self.folder.is_dir():
                    raise
                continue  # likewise
            return
        raise PlanError(Problem("other processes keep writing this output", file=str(self.folder)))

    def _names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}

    def _check_ours(self) -> None:
        """What lies there by the names that a merge uses must come from one; the folder is locked.

        A merge writes README.txt first and deletes the journal last. After a power cut, README.txt may be empty.
        """
        there = sorted(self._names() - {"lock"})
        if not there:
            return
        try:
            text = (self.folder / "README.txt").read_bytes()
        except OSError:
            text = b"none"
        ours = not text or text.startswith(_README.encode().split(b"\n")[0])
        if not ours and read_journal(self._journal).format is None:
            raise self._strange(there[0])

    def _strange(self, name: str) -> PlanError:
        message = f"this folder is needed while merging, but holds something else: {name}"
        return PlanError(Problem(message, file=str(self.folder), fix="move it, or choose another output"))

    def _put_back(self) -> None:
        """An earlier output that was moved aside by a merge that then died goes back."""
        if not os.path.lexists(self._previous):
            return
        if os.path.lexists(self.out):
            message = "an earlier output was moved here by a merge that was broken off, and its place is taken since"
            fix = f"move it elsewhere, or back in place of {self.out}"
            raise PlanError(Problem(message, file=str(self._previous), fix=fix))
        try:
            self._previous.rename(self.out)
        except OSError as error:
            raise cannot_write(self._previous, error) from error

    def _remove_if_empty(self) -> None:
        try:
            self.folder.rmdir()
        except OSError:
            return  # it holds what can be continued, or belongs to another process by now
