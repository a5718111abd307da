"""Reading small files that strangers made: no more than is wanted, and nothing that could block."""

from __future__ import annotations

from pathlib import Path

from stockpot.checkpoint.places import must_be_file
from stockpot.errors import CheckpointError

__all__ = ["beginning", "small_text"]


def beginning(path: Path, most: int) -> bytes:
    """The first ``most`` bytes of a file.

    Raises:
        CheckpointError: for what is no regular file.
        OSError: when it cannot be read.
    """
    must_be_file(path)
    with path.open("rb") as file:
        return file.read(most)


def small_text(path: Path, most: int, *, cut: bool = False) -> str | None:
    """The text in a file of at most ``most`` bytes, or its beginning (``cut``); None when it cannot be read so."""
    try:
        data = beginning(path, most + 1)
    except (OSError, CheckpointError):
        return None
    if len(data) > most and not cut:
        return None
    return data[:most].decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
