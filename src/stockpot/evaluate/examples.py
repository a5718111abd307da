"""Reading local data: lines of JSON, texts, and the bytes of files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from stockpot.errors import CheckpointError, Problem

__all__ = ["Row", "content_of", "digest", "keys_of", "read_rows", "read_text"]

Row = Mapping[str, Any]


def digest(*parts: bytes | str) -> bytes:
    """A digest of ``parts`` in order: what one of them holds cannot be taken for a part of the next."""
    told = xxhash.xxh3_128()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        told.update(len(data).to_bytes(8, "little"))
        told.update(data)
    return told.digest()


def keys_of(digests: Iterable[bytes]) -> npt.NDArray[np.uint64]:
    """The column that tells examples apart: 64 bits of each digest."""
    return np.frombuffer(b"".join(d[:8] for d in digests), np.uint64)


def content_of(files: Iterable[Path]) -> str:
    """A hash of the bytes of ``files`` in order; their names do not count.

    Raises:
        CheckpointError: when one cannot be read.
    """
    told = xxhash.xxh3_128()
    for path in files:
        data = _bytes(path)
        told.update(xxhash.xxh3_128_digest(data))
    return told.hexdigest()


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, line ends as they are.

    Raises:
        CheckpointError: when it cannot be read or is no UTF-8.
    """
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(Problem("not a UTF-8 text file", file=str(path), fix="save it as UTF-8")) from error


def read_rows(files: Iterable[Path], check: Callable[[Row], str | None]) -> list[Row]:
    """The objects in files with a JSON object on each line; empty lines are skipped.

    Args:
        check: What is wrong with an object; None when nothing is.

    Raises:
        CheckpointError: with up to 20 lines that are wrong, each by number.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    for path in files:
        for number, line in enumerate(read_text(path).split("\n"), 1):
            if line.strip() and len(problems) < 20:
                row, wrong = _row(line, check)
                rows.extend(row)
                problems.extend(Problem(f"line {number}: {told}", file=str(path)) for told in wrong)
    if not rows and not problems:
        problems.append(Problem("no examples", file=", ".join(map(str, files))))
    if problems:
        raise CheckpointError(*problems)
    return rows


def _row(line: str, check: Callable[[Row], str | None]) -> tuple[list[Row], Iterator[str]]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return [], iter((f"not JSON: {error}",))
    wrong = check(row) if isinstance(row, dict) else "not a JSON object"
    return ([row], iter(())) if wrong is None else ([], iter((wrong,)))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(Problem(f"cannot read the data: {error.strerror or error}", file=str(path))) from error
