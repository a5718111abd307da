"""Reading payload bytes: many threads, few file descriptors, no copies that are not needed."""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from typing import Self

from stockpot.checkpoint.model import Stamp, TensorRef
from stockpot.checkpoint.tensorhash import TensorHash
from stockpot.errors import Problem, StorageError

__all__ = ["PayloadReader"]


@dataclass
class _Open:
    """An open file and the number of reads under way on it; closed only when there are none."""

    descriptor: int
    users: int = 0


_CHANGED = "nothing may change the inputs during a merge: put the file back as it was, or begin again with --restart"


class PayloadReader:
    r"""Reads byte ranges of tensors from files and from memory.

    All methods may be called from any thread. The least recently used files are closed when more
    than ``max_files`` are open, never while a read on them is under way.

    >>> import numpy as np
    >>> from stockpot.checkpoint.model import from_arrays
    >>> ref = from_arrays("here", {"w": np.arange(4, dtype=np.uint8)}).tensors["w"]
    >>> with PayloadReader() as reader:
    ...     reader.read(ref, 1, memoryview(room := bytearray(2)))
    >>> room
    bytearray(b'\x01\x02')
    """

    def __init__(
        self, max_files: int = 128, *, stamps: Mapping[str, Stamp] | None = None, hashing: bool = False
    ) -> None:
        self._max_files = max(1, max_files)
        self._stamps = stamps or {}
        self._hashes: dict[tuple[str, str], TensorHash] | None = {} if hashing else None
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._lock = Lock()

    def read(self, ref: TensorRef, start_byte: int, view: memoryview) -> None:
        """Fill ``view`` with the bytes of ``ref`` from its byte ``start_byte`` on.

        Raises:
            StorageError: when the file vanished, changed, shrank or cannot be read; it names tensor and
            file. ValueError: when the range lies outside the tensor (a bug of the caller).
        """
        target = view if view.format == "B" and view.ndim == 1 else view.cast("B")
        if start_byte < 0 or start_byte + target.nbytes > ref.nbytes:
            raise ValueError(f"{ref.name}: bytes {start_byte}+{target.nbytes} of {ref.nbytes}")
        if target.nbytes == 0:
            return
        if ref.file is None:
            _copy(ref, start_byte, target)
        else:
            with self._using(ref, ref.file) as descriptor:
                _fill(ref, descriptor, ref.offset + start_byte, target)
        if self._hashes is not None:
            self._passing(ref).add(start_byte, target)

    def read_pieces(self, ref: TensorRef, starts: Sequence[int], view: memoryview) -> None:
        """Fill ``view`` with pieces of equal length, one from each byte of ``starts``, one after the other.

        Raises:
            StorageError, ValueError: as :meth:`read`.
        """
        length = view.nbytes // max(1, len(starts))
        if not starts or not length:
            return
        if min(starts) < 0 or max(starts) + length > ref.nbytes:
            raise ValueError(
                f"{ref.name}: pieces of {length} bytes from {min(starts)} to {max(starts)} of {ref.nbytes}"
            )
        parts = [view[i : i + length] for i in range(0, length * len(starts), length)]
        if ref.file is None:
            for start, part in zip(starts, parts, strict=True):
                _copy(ref, start, part)
        else:
            with self._using(ref, ref.file) as descriptor:
                for start, part in zip(starts, parts, strict=True):
                    _fill(ref, descriptor, ref.offset + start, part)
        if self._hashes is not None:
            found = self._passing(ref)
            for start, part in zip(starts, parts, strict=True):
                found.add(start, part)

    def hash_of(self, ref: TensorRef) -> str:
        """Hash of ``ref`` (:class:`TensorHash`) as it was first read; what was not read yet is read now.

        Raises:
            StorageError: as :meth:`read`.
        """
        found = self._passing(ref)
        while (missing := found.missing()) is not None:
            start, nbytes = missing
            self.read(ref, start, memoryview(bytearray(nbytes)))
        return found.hexdigest()

    def _passing(self, ref: TensorRef) -> TensorHash:
        assert self._hashes is not None
        found = self._hashes.get(ref.key)
        return found if found is not None else self._hashes.setdefault(ref.key, TensorHash(ref.nbytes))

    def check(self, refs: Iterable[TensorRef]) -> None:
        """Make sure that what was read of ``refs`` until now was read from files that nobody has changed.

        Raises:
            StorageError: as :meth:`read`.
        """
        for path, ref in {ref.file: ref for ref in refs}.items():
            if path is not None:
                with self._using(ref, path) as descriptor:
                    _check(ref, path, descriptor, self._stamps.get(path))

    def prefetch(self, ref: TensorRef, start_byte: int = 0, length: int | None = None) -> None:
        """Tell the system that these bytes are wanted soon; a no-op where it cannot be told.

        Raises:
            StorageError: when the file cannot be opened.
        """
        if ref.file is None or ref.nbytes == 0 or not hasattr(os, "posix_fadvise"):
            return
        wanted = ref.nbytes - start_byte if length is None else length
        with self._using(ref, ref.file) as descriptor:
            try:
                os.posix_fadvise(descriptor, ref.offset + start_byte, wanted, os.POSIX_FADV_WILLNEED)
            except OSError:
                return  # advice only: some file systems do not take it

    def close(self) -> None:
        """Close every file that is not being read. The reader can be used again afterwards."""
        with self._lock:
            for path in [path for path, entry in self._open.items() if entry.users == 0]:
                _closed(self._open.pop(path).descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _using(self, ref: TensorRef, path: str) -> Iterator[int]:
        with self._lock:
            entry = self._open.get(path)
            if entry is None:
                self._evict(self._max_files - 1)
                entry = self._open[path] = _Open(_opened(ref, path, self._stamps.get(path)))
            self._open.move_to_end(path)
            entry.users += 1
        try:
            yield entry.descriptor
        finally:
            with self._lock:
                entry.users -= 1
                self._evict(self._max_files)

    def _evict(self, keep: int) -> None:
        surplus = len(self._open) - keep
        if surplus <= 0:
            return
        idle = [path for path, entry in self._open.items() if entry.users == 0]
        for path in idle[:surplus]:
            _closed(self._open.pop(path).descriptor)


def _closed(descriptor: int) -> None:
    with suppress(OSError):  # what was read has been read
        os.close(descriptor)


def _copy(ref: TensorRef, start: int, target: memoryview) -> None:
    if ref.array is None:
        raise ValueError(f"{ref.name}: neither a file nor an array")
    target[:] = ref.array.data[start : start + target.nbytes]


def _opened(ref: TensorRef, path: str, stamp: Stamp | None) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise _failed(ref, "cannot be opened", error) from error
    try:
        _check(ref, path, descriptor, stamp)
    except BaseException:
        _closed(descriptor)
        raise
    return descriptor


def _check(ref: TensorRef, path: str, descriptor: int, stamp: Stamp | None) -> None:
    try:
        same = stamp is None or Stamp.of(os.fstat(descriptor)) == stamp
    except OSError as error:
        raise _failed(ref, "cannot be looked at", error) from error
    if not same:
        message = "the file has changed since the merge was planned"
        raise StorageError(Problem(message, tensor=ref.name, file=path, fix=_CHANGED))


def _fill(ref: TensorRef, descriptor: int, offset: int, target: memoryview) -> None:
    """Read until ``target`` is full: one call may return less than was asked for."""
    done = 0
    while done < target.nbytes:
        try:
            count = _read_at(descriptor, target[done:], offset + done)
        except OSError as error:
            raise _failed(ref, "cannot be read", error) from error
        if count == 0:
            message = "the file shrank while it was read"
            raise StorageError(Problem(message, tensor=ref.name, file=ref.file, fix=_CHANGED))
        done += count


def _read_at(descriptor: int, target: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [target], offset)
    data = os.pread(descriptor, target.nbytes, offset)
    target[: len(data)] = data
    return len(data)


def _failed(ref: TensorRef, what: str, error: OSError) -> StorageError:
    fixes = {
        errno.EIO: "the disk reports an error: check it, copy the file elsewhere and run again",
        errno.ENOENT: "the file was there when the merge was planned: restore it and run again",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
    }
    message = f"the file {what}: {error.strerror or error}"
    fix = fixes.get(error.errno or 0)
    return StorageError(Problem(message, tensor=ref.name, file=ref.file, fix=fix))
