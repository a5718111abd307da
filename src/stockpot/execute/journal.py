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

__all__ = ["Finished", "Journal", "Past", "read_journal"]

_FORMAT = 1


@dataclass(frozen=True)
class Finished:
    """A finished tensor.

    Args:
        file: The file it is in.
        hash: Hexadecimal xxh3-128 of its bytes.
        read: Key of each input tensor → hash of its bytes.
    """

    file: str
    hash: str
    read: Mapping[tuple[str, str], str]


@dataclass
class Past:
    """What a journal tells.

    Args:
        head: Fingerprint of the merge; empty when the journal was not begun properly.
        finished: Tensor name → what was written.
        published: Inode of the finished output, once it was about to be put in its place.
        nbytes: Length of the lines that are whole.
    """

    head: dict[str, Any] = field(default_factory=dict)
    finished: dict[str, Finished] = field(default_factory=dict)
    published: int | None = None
    nbytes: int = 0


class Journal:
    """A journal that is being written; from any thread. ``count`` is the number of finished tensors in it.

    Args:
        path: The file; begun anew unless ``past`` says how it goes on.
        head: Fingerprint of the merge.
        past: What it holds already.

    Raises:
        StorageError: when it cannot be written.
    """

    def __init__(self, path: Path, head: Mapping[str, Any], past: Past | None = None) -> None:
        self._path, self._lock = path, Lock()
        self.count = len(past.finished) if past is not None else 0
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            self._end = past.nbytes if past is not None else 0
            os.ftruncate(self._descriptor, self._end)
        except OSError as error:
            raise cannot_write(path, error) from error
        if past is None:
            self._add({"journal": _FORMAT, "merge": dict(head)})

    def finished(self, tensor: str, entry: Finished) -> None:
        """Note that ``tensor`` is complete."""
        read: dict[str, dict[str, str]] = {}
        for (file, name), digest in entry.read.items():
            read.setdefault(file, {})[name] = digest
        self._add({"tensor": tensor, "file": entry.file, "hash": entry.hash, "read": read})
        with self._lock:
            self.count += 1

    def lost(self, file: str) -> None:
        """Note that what was written to ``file`` cannot be trusted, whatever reading it gives."""
        try:
            self._add({"lost": file})
        except StorageError:  # nothing can be noted any more: then all of it counts as lost
            os.ftruncate(self._descriptor, 0)
            self._end = self.count = 0

    def publishing(self, inode: int, *, durable: bool) -> None:
        """Note that the folder ``inode`` is whole, and is now put in its place."""
        self._add({"publishing": inode})
        if durable:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                raise cannot_write(self._path, error) from error

    def close(self) -> None:
        """Close the file; what a network file system has lost of it is done again."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def _add(self, entry: Mapping[str, Any]) -> None:
        text = json.dumps(entry, separators=(",", ":"))
        line = f"{xxhash.xxh3_64_hexdigest(text.encode())} {text}\n".encode()
        with self._lock:
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
    entry = json.loads(text)
    return entry if isinstance(entry, dict) else None


def _take(entry: dict[str, Any], past: Past) -> bool:
    """Add a line to what is known; False where it makes no sense."""
    if not past.head:
        past.head = entry.get("merge", {}) if entry.get("journal") == _FORMAT else {}
        return bool(past.head)
    if "publishing" in entry:
        past.published = entry["publishing"]
    elif "lost" in entry:
        past.finished = {name: done for name, done in past.finished.items() if done.file != entry["lost"]}
    elif "tensor" in entry:
        read = {(file, name): digest for file, names in entry["read"].items() for name, digest in names.items()}
        past.finished[entry["tensor"]] = Finished(entry["file"], entry["hash"], read)
    return True
