"""The journal of a merge: what it is, and every tensor that is finished, one line each.

A line is the hash of its text and the text, so that a line that was only half written, or that the disk lost, is
known for what it is. Nothing waits for the disk: what a journal says is believed only after the tensor's bytes
have been hashed again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import xxhash

from stockpot.checkpoint.storage import cannot_write, write_all
from stockpot.errors import Problem, StorageError

__all__ = ["FORMAT", "Finished", "Journal", "Past", "read_journal"]

FORMAT = 1


@dataclass(frozen=True)
class Finished:
    """A finished tensor.

    Args:
        file: The file it is in.
        hash: Hexadecimal xxh3-128 of its bytes.
        read: Key of each input tensor → hash of its bytes.
        told: What a report of the merge says of it, as JSON data; None for nothing.
    """

    file: str
    hash: str
    read: Mapping[tuple[str, str], str]
    told: Mapping[str, Any] | None = None


@dataclass
class Past:
    """What a journal tells.

    Args:
        head: Fingerprint of the merge; empty when the journal was not begun properly.
        finished: Tensor name → what was written.
        published: Inode of the finished output, once it was about to be put in its place.
        nbytes: Length of the lines that are whole.
        format: What its first line says it is written in; None without a first line. Of other formats than
            :data:`FORMAT` nothing else is known.
    """

    head: dict[str, Any] = field(default_factory=dict)
    finished: dict[str, Finished] = field(default_factory=dict)
    published: int | None = None
    nbytes: int = 0
    format: int | None = None


class Journal:
    """A journal that is being written; from any thread.

    Args:
        path: The file; begun anew unless ``past`` says how it goes on.
        head: Fingerprint of the merge.
        past: What it holds already.

    Raises:
        StorageError: when it cannot be written.
    """

    def __init__(self, path: Path, head: Mapping[str, Any], past: Past | None = None) -> None:
        self._path, self._lock = path, Lock()
        self._files = {name: done.file for name, done in past.finished.items()} if past is not None else {}
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            self._end = past.nbytes if past is not None else 0
            os.ftruncate(self._descriptor, self._end)
        except OSError as error:
            raise cannot_write(path, error) from error
        if past is None:
            self._add({"journal": FORMAT, "merge": dict(head)})

    @property
    def count(self) -> int:
        """Number of finished tensors."""
        return len(self._files)

    def finished(self, tensor: str, entry: Finished) -> None:
        """Note that ``tensor`` is complete.

        Raises:
            StorageError: when it cannot be written, or the journal is closed.
        """
        read: dict[str, dict[str, str]] = {}
        for (file, name), digest in entry.read.items():
            read.setdefault(file, {})[name] = digest
        told = {} if entry.told is None else {"told": entry.told}
        self._add({"tensor": tensor, "file": entry.file, "hash": entry.hash, "read": read, **told})
        with self._lock:
            self._files[tensor] = entry.file

    def lost(self, file: str) -> None:
        """Note that what was written to ``file`` cannot be trusted, whatever reading it gives."""
        with self._lock:
            self._files = {name: where for name, where in self._files.items() if where != file}
        try:
            self._add({"lost": file})
        except StorageError:  # nothing can be noted any more: then all of it counts as lost, and is deleted
            self._files, self._end = {}, 0
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)

    def publishing(self, inode: int, *, durable: bool) -> None:
        """Note that the folder ``inode`` is whole, and is now put in its place."""
        self._add({"publishing": inode})
        if durable:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                raise cannot_write(self._path, error) from error

    def close(self) -> None:
        """Close the file: what a network file system loses now is done again; a thread that is late adds nothing."""
        with self._lock, contextlib.suppress(OSError):
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _add(self, entry: Mapping[str, Any]) -> None:
        text = json.dumps(entry, separators=(",", ":"))
        line = f"{xxhash.xxh3_64_hexdigest(text.encode())} {text}\n".encode()
        with self._lock:
            if self._descriptor < 0:  # its number may be another file's by now
                raise StorageError(Problem("the merge was stopped", file=str(self._path)))
            try:
                write_all(self._descriptor, line, self._end)
            except OSError as error:
                raise cannot_write(self._path, error) from error
            self._end += len(line)


def read_journal(path: Path) -> Past:
    """What the journal at ``path`` tells, up to the first line that is not whole; nothing when there is none.

    Raises:
        StorageError: when it is there but cannot be read.
    """
    past = Past()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return past
    except OSError as error:
        message = f"the journal cannot be read: {error.strerror or error}"
        fix = "try again when the disk answers, or begin again with --restart"
        raise StorageError(Problem(message, file=str(path), fix=fix)) from error
    for line in data.splitlines(keepends=True):
        entry = _entry(line)
        if entry is None or not _take(entry, past):
            break
        past.nbytes += len(line)
    return past


def _entry(line: bytes) -> dict[str, Any] | None:
    digest, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or xxhash.xxh3_64_hexdigest(text).encode() != digest:
        return None
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _take(entry: dict[str, Any], past: Past) -> bool:
    """Add a line to what is known; False where it makes no sense."""
    if past.format is None:
        return _begun(entry, past)
    match entry:
        case {"publishing": int(inode)}:
            past.published = inode
        case {"lost": str(file)}:
            past.finished = {name: done for name, done in past.finished.items() if done.file != file}
        case {"tensor": str(tensor), "file": str(file), "hash": str(digest), "read": dict(read)}:
            if not all(isinstance(names, dict) for names in read.values()):
                return False
            hashes = {(source, name): found for source, names in read.items() for name, found in names.items()}
            if not all(isinstance(found, str) for found in hashes.values()):
                return False
            told = entry.get("told")
            if not isinstance(told, dict | None):
                return False
            past.finished[tensor] = Finished(file, digest, hashes, told)
        case _:
            return False
    return True


def _begun(entry: dict[str, Any], past: Past) -> bool:
    """Take the first line."""
    match entry:
        case {"journal": int(number), "merge": dict(head)} if number == FORMAT:
            past.format, past.head = number, head
            return bool(head)
        case {"journal": int(number)} if number != FORMAT:
            past.format = number
    return False
