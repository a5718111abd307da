"""JSON that strangers wrote: headers, configs, indexes. Bounded before it is parsed, strict where Python's is not.

A parsed document takes far more memory than its text: 100 MB of ``[],[],…`` would take 3 GB. What costs
memory are its values, each of which is preceded by one of ``[ { , :``; these are counted first, at the
speed of memory. Text outside ASCII, of which Python may keep four bytes a character, has a limit of its own.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.checkpoint.places import cannot_read, must_be_file
from stockpot.errors import CheckpointError, Problem

__all__ = [
    "CONFIG",
    "HEADER",
    "INDEX",
    "TOKENIZER",
    "BadJsonError",
    "Limits",
    "TwiceError",
    "parse_json",
    "read_index",
    "read_json",
]

_MARKS = b"[{,:"
_MAX_WIDE_BYTES = 32 << 20
_MAX_DEPTH = 64
_MAX_INDEX_TENSORS = 1_000_000
_MAX_INDEX_FILES = 10_000


@dataclass(frozen=True)
class Limits:
    """What is read of one kind of document; parsing takes at most some 100 bytes a mark, beside the text.

    Args:
        most_bytes: Size of the file.
        most_marks: How many of ``[ { , :`` it may hold, those in texts included.
        most_digits: Digits of a whole number.
        finite: Whether NaN and Infinity, which Python writes, are refused.
        depth: Levels of lists and maps.
        most_wide: Size of a file with text outside ASCII.
    """

    most_bytes: int
    most_marks: int
    most_digits: int = 20
    finite: bool = True
    depth: int | None = None
    most_wide: int = _MAX_WIDE_BYTES


HEADER = Limits(100_000_000, 5_000_000)
"""A tensor has 14 marks; maps of training settings in ``__metadata__`` have up to a million."""

INDEX = Limits(100_000_000, 5_000_000)
"""A tensor has two marks; the index of the largest models has some 9 MB."""

CONFIG = Limits(16_000_000, 1_000_000, most_digits=310, finite=False, depth=_MAX_DEPTH)
"""Real configs have some kB. Some hold Infinity (``time_step_limit``), which transformers writes and reads."""

TOKENIZER = Limits(100_000_000, 8_000_000, most_digits=310, finite=False, depth=_MAX_DEPTH, most_wide=64 << 20)
"""The largest vocabularies have 262 144 tokens and 580 000 pairs that are joined, in 34 MB."""


class BadJsonError(ValueError):
    """What is wrong with a document, as a clause."""


class TwiceError(BadJsonError):
    """One object has the key ``key`` twice: readers differ in which they take."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key[:80]!a} stands twice in one object")
        self.key = key


def parse_json(raw: bytes, limits: Limits) -> Any:
    """The value that ``raw`` writes.

    Raises:
        BadJsonError: when it is malformed, holds what JSON lacks, or exceeds ``limits``.
    """
    if len(raw) > limits.most_bytes:
        raise BadJsonError(f"larger than {limits.most_bytes} bytes")
    wide = not raw.isascii() or b"\\u" in raw
    if wide and len(raw) > limits.most_wide:
        raise BadJsonError(f"larger than {limits.most_wide} bytes, with text outside ASCII")
    if sum(raw.count(mark) for mark in _MARKS) > limits.most_marks:
        raise BadJsonError(f"more than {limits.most_marks} values")
    hooks = _hooks(limits)
    try:
        value = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_unique, **hooks)
    except BadJsonError:
        raise
    except UnicodeDecodeError as error:
        raise BadJsonError("not valid JSON: not UTF-8 text") from error
    except RecursionError as error:
        raise BadJsonError("not valid JSON: nested too deeply") from error
    except ValueError as error:
        raise BadJsonError(f"not valid JSON: {error}") from error
    if limits.depth is not None and not _within(value, limits.depth):
        raise BadJsonError(f"nested more than {limits.depth} levels deep")
    return value


def read_index(path: Path) -> dict[str, str]:
    """Tensor name → file name, of the index file at ``path``.

    Raises:
        CheckpointError: when it is no index.
    """
    index = _read(path, INDEX)
    weights = index.get("weight_map")
    fix = "download it again, or remove it: the shards are then read without it"
    if not isinstance(weights, dict) or not all(isinstance(v, str) for v in weights.values()):
        raise CheckpointError(Problem("the index has no weight_map", file=str(path), fix=fix))
    if len(weights) > _MAX_INDEX_TENSORS:
        message = f"the index names {len(weights)} tensors; at most {_MAX_INDEX_TENSORS} are read"
        raise CheckpointError(Problem(message, file=str(path), fix=fix))
    files = len(set(weights.values()))
    if files > _MAX_INDEX_FILES:
        message = f"the index names {files} files; at most {_MAX_INDEX_FILES} are read"
        raise CheckpointError(Problem(message, file=str(path), fix=fix))
    return weights


def read_json(path: Path, limits: Limits = CONFIG) -> dict[str, Any]:
    """The JSON object in the file at ``path``, a config unless ``limits`` say otherwise.

    Raises:
        CheckpointError: when it cannot be read, or is no JSON object.
    """
    return _read(path, limits)


def _read(path: Path, limits: Limits) -> dict[str, Any]:
    try:
        must_be_file(path)
        with path.open("rb") as file:
            raw = file.read(limits.most_bytes + 1)
        found = parse_json(raw, limits)
    except OSError as error:
        raise cannot_read(path, error) from error
    except BadJsonError as error:
        raise CheckpointError(Problem(str(error), file=str(path), fix="download it again")) from error
    if not isinstance(found, dict):
        raise CheckpointError(Problem("not a JSON object", file=str(path), fix="download it again"))
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise TwiceError(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return found


def _hooks(limits: Limits) -> dict[str, Any]:
    """How numbers are read."""

    def whole(text: str) -> int:
        if len(text) > limits.most_digits + 1:
            raise BadJsonError(f"a whole number of {len(text)} digits")
        return int(text)

    def broken(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            raise BadJsonError(f"the number {text[:40]} is out of range")
        return value

    def constant(text: str) -> float:
        if limits.finite:
            raise BadJsonError(f"{text}, which is no number of JSON")
        return float(text)

    return {"parse_int": whole, "parse_float": broken, "parse_constant": constant}


def _within(value: Any, depth: int) -> bool:
    """Whether ``value`` has no more levels than ``depth``."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(depth):
        inner = (item for node in level for item in (node.values() if isinstance(node, dict) else node))
        level = [item for item in inner if isinstance(item, dict | list)]
    return not level
