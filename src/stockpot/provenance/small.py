"""Reading small files that strangers made: no more than is wanted, and nothing that could block.

A file that is not there, or may not be read, tells nothing. A disk that fails is an error: else what a merge
writes would depend on it.
"""

from __future__ import annotations

import errno
from pathlib import Path

from stockpot.checkpoint.places import must_be_file
from stockpot.errors import CheckpointError, Problem, StorageError

__all__ = ["beginning", "lies_there", "small_text"]

_LASTING = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""What is so again the next time."""


def beginning(path: Path, most: int) -> bytes:
    """The first ``most`` bytes of a file.

    Raises:
        CheckpointError: for what is no regular file.
        StorageError: when the disk fails.
        OSError: when it is not there or may not be read.
    """
    try:
        must_be_file(path)
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise _judged(path, error) from error


def lies_there(path: Path) -> bool:
    """Whether a regular file lies at ``path``, as far as one may see.

    Raises:
        StorageError: when the disk fails.
    """
    try:
        must_be_file(path)
    except CheckpointError:
        return False
    except OSError as error:
        if isinstance(_judged(path, error), StorageError):
            raise _judged(path, error) from error
        return False
    return True


def small_text(path: Path, most: int, *, cut: bool = False) -> str | None:
    """The text in a file of at most ``most`` bytes, or its beginning (``cut``); None when there is none to be read.

    Raises:
        StorageError: when the disk fails.
    """
    try:
        data = beginning(path, most + 1)
    except (OSError, CheckpointError):
        return None
    if len(data) > most and not cut:
        return None
    return data[:most].decode("utf-8-sig", errors="replace").replace("\r\n", "\n")


def _judged(path: Path, error: OSError) -> OSError | StorageError:
    if error.errno in _LASTING:
        return error
    message = f"cannot be read: {error.strerror or error}"
    return StorageError(Problem(message, file=str(path), fix="try again when the disk answers"))
