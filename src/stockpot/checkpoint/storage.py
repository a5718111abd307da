"""Writing to disks that may be full, slow or broken: whole writes, reserved space, waiting until it is safe."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import xxhash

from stockpot.errors import Problem, StorageError

__all__ = [
    "cannot_write",
    "held_bytes",
    "pieces_of",
    "reserve",
    "start_storing",
    "sync_folder",
    "write_all",
    "write_file",
]

_PIECE = 1 << 20

_NOT_THERE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What a system answers that cannot reserve space, or has no need to sync a folder."""


def write_all(descriptor: int, data: bytes | memoryview, place: int) -> None:
    """Write ``data`` from byte ``place`` on; one call may write less than was asked for.

    Raises:
        OSError: as the system reports it.
    """
    view = memoryview(data)
    while view.nbytes:
        done = os.pwrite(descriptor, view, place)
        if done == 0:
            raise OSError(errno.EIO, "the system wrote nothing")
        view, place = view[done:], place + done


def pieces_of(path: Path) -> Iterator[bytes]:
    """The content of a file, a piece at a time.

    Raises:
        OSError: when it cannot be read.
    """
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def write_file(path: Path, pieces: Iterable[bytes], *, durable: bool = False) -> str:
    """Create or replace the small file ``path``, and tell the hexadecimal xxh3-128 of what it holds now.

    Args:
        pieces: Its content.
        durable: Whether to wait until the disk has it.

    Raises:
        StorageError: when it cannot be written; it names the file.
    """
    digest, place = xxhash.xxh3_128(), 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            for piece in pieces:
                write_all(descriptor, piece, place)
                digest.update(piece)
                place += len(piece)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise cannot_write(path, error) from error
    return digest.hexdigest()


def reserve(descriptor: int, nbytes: int) -> None:
    """Have the file system set ``nbytes`` aside for a file; nothing happens where it cannot.

    Raises:
        OSError: when there is not enough space.
    """
    fallocate = _fallocate()
    if fallocate is None or nbytes == 0:
        return
    while fallocate(descriptor, 0, 0, nbytes) != 0:
        code = ctypes.get_errno()
        if code == errno.EINTR:
            continue
        if code in _NOT_THERE:
            return
        raise OSError(code, os.strerror(code))


def start_storing(descriptor: int, place: int, nbytes: int) -> None:
    """Have the system begin to store these bytes, without waiting, so that a sync later finds little left to do."""
    call = _sync_file_range()
    if call is not None:
        call(descriptor, place, nbytes, _WRITE)


_WRITE = 2
"""Linux's SYNC_FILE_RANGE_WRITE."""


@cache
def _fallocate() -> Callable[..., int] | None:
    """The system's own call: the C library's portable one writes zeros where the file system cannot reserve."""
    return _of_linux("fallocate", (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64))


@cache
def _sync_file_range() -> Callable[..., int] | None:
    return _of_linux("sync_file_range", (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint))


def _of_linux(name: str, arguments: tuple[Any, ...]) -> Callable[..., int] | None:
    """A call that Python does not offer; None where there is none, or where file sizes are of another width."""
    try:
        call = ctypes.CDLL(None, use_errno=True)[name]
    except (OSError, AttributeError, TypeError):
        return None
    call.argtypes, call.restype = arguments, ctypes.c_int
    return call if ctypes.sizeof(ctypes.c_void_p) == 8 else None


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in the folder ``path``; nothing happens on systems that cannot be asked.

    Raises:
        StorageError: when the disk reports an error; it names the folder.
    """
    if os.name != "posix":
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise cannot_write(path, error) from error


def held_bytes(folder: Path) -> int:
    """Bytes of the disk that the files in ``folder`` and below take already."""
    found = 0
    for here, _, names in os.walk(folder):
        for name in names:
            try:
                found += os.lstat(os.path.join(here, name)).st_blocks * 512  # noqa: PTH118 - many files
            except OSError:
                continue  # gone meanwhile: it takes nothing
    return found


def cannot_write(path: Path | str, error: OSError, tensor: str | None = None) -> StorageError:
    """``error`` of writing to ``path``, with what can be done about it."""
    fix = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some space, or have the quota raised",
        errno.EFBIG: "raise the limit of file sizes (ulimit -f), or write smaller shards (--shard-size)",
        errno.EIO: "the disk reports an error: check it",
        errno.EACCES: "check the folder's permissions",
        errno.EROFS: "choose a folder that you may write to",
    }.get(error.errno or 0)
    return StorageError(Problem(f"cannot write: {error.strerror or error}", tensor=tensor, file=str(path), fix=fix))
