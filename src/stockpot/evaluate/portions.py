"""Data in disjoint pieces, so that a model can be measured on a little of it first and on the rest later.

A piece is files of the same kind, so a task reads it as it reads the whole. Each example lies in exactly one piece, and
predictions of pieces, one after another, are predictions of their examples together. Examples within a piece keep their
order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.storage import cannot_write
from stockpot.errors import ExecutionError, Problem, RecipeError
from stockpot.evaluate.arrays import packed, read_npz
from stockpot.evaluate.examples import read_text
from stockpot.evaluate.protocol import Files, Predictions

__all__ = ["ArrayRows", "Cut", "Deal", "Lines", "Spans", "checked_shares", "joined", "portions"]

Pieces: TypeAlias = list[list[bytes]]
"""Of one file: for each piece, the contents of the files that hold its part; none where it has no part."""


class Cut(Protocol):
    """How the data of a task is cut."""

    def pieces(self, path: Path, deal: Deal) -> Pieces:
        """The parts of the file ``path`` that ``deal`` gives to each piece.

        Raises:
            CheckpointError: when it cannot be read.
        """


class Deal:
    """Deals the examples of file after file out to pieces, so that each file has its share in each piece.

    >>> Deal((0.5, 1.0), seed=0).rows(4)
    [array([0, 2]), array([1, 3])]

    Args:
        shares: See :func:`checked_shares`.
        seed: Tells which examples come first.
    """

    def __init__(self, shares: Sequence[float], seed: int) -> None:
        self._shares, self._rng = shares, np.random.default_rng(seed)
        self._total, self._given = 0, [0] * len(shares)

    def rows(self, count: int) -> list[npt.NDArray[np.int64]]:
        """For each piece the numbers, in order, of those of ``count`` examples that it has."""
        order = self._rng.permutation(count)
        ends = self._wanted(count)
        self._took(ends)
        return [np.sort(order[start:end]) for start, end in zip([0, *ends], ends, strict=False)]

    def spans(self, sizes: Sequence[int]) -> list[list[tuple[int, int]]]:
        """For each piece the spans (first, end) of units that it has: one, or two where it goes round the end.

        Args:
            sizes: Of units in a row, each at least 1.
        """
        count = len(sizes)
        first = int(self._rng.integers(count))
        reached = np.cumsum(np.roll(np.asarray(sizes), -first))
        ends = [int(np.searchsorted(reached, end)) + 1 if end else 0 for end in self._wanted(int(reached[-1]))]
        self._took([int(reached[end - 1]) if end else 0 for end in ends])
        return [_unrolled(start, end, first, count) for start, end in zip([0, *ends], ends, strict=False)]

    def _wanted(self, amount: int) -> list[int]:
        """Where in the next ``amount`` each piece should end, so that the pieces so far have their shares of all."""
        self._total += amount
        ends: list[int] = []
        for share, given in zip(self._shares, self._given, strict=True):
            end = math.ceil(share * self._total - 1e-9) - given
            ends.append(min(max(end, ends[-1] if ends else 0), amount))
        return ends

    def _took(self, ends: Sequence[int]) -> None:
        self._given = [given + end for given, end in zip(self._given, ends, strict=True)]


def _unrolled(start: int, end: int, first: int, count: int) -> list[tuple[int, int]]:
    """``start`` … ``end`` of units that were rolled by ``first``, as spans of them as they lie."""
    if end - start == count:
        return [(0, count)]
    start, end = start + first, end + first
    if start >= count:
        start, end = start - count, end - count
    spans = [(start, min(end, count)), (0, end - count)]
    return [(low, high) for low, high in spans if low < high]


@dataclass(frozen=True)
class ArrayRows:
    """Rows of the arrays of a .npz file.

    Args:
        names: Of the arrays, equally long.
    """

    names: tuple[str, ...]

    def pieces(self, path: Path, deal: Deal) -> Pieces:
        """See :class:`Cut`."""
        arrays = read_npz(path)
        own = {name: arrays[name] for name in self.names}
        parts = deal.rows(len(own[self.names[0]]))
        return [[packed({n: a[rows] for n, a in own.items()}, small=False)] if len(rows) else [] for rows in parts]


@dataclass(frozen=True)
class Lines:
    """Lines of text or JSON, each an example; empty ones are none."""

    def pieces(self, path: Path, deal: Deal) -> Pieces:
        """See :class:`Cut`."""
        lines = [line for line in read_text(path).split("\n") if line.strip()]
        parts = deal.rows(len(lines))
        return [["".join(lines[i] + "\n" for i in rows).encode()] if len(rows) else [] for rows in parts]


@dataclass(frozen=True)
class Spans:
    """Spans of whole lines of a text that is one document.

    A span is a document of its own: what stands before a cut is no longer context for what stands after it, so figures
    over pieces are slightly worse than over the whole. A file is cut into one span a piece, and one more.
    """

    def pieces(self, path: Path, deal: Deal) -> Pieces:
        """See :class:`Cut`."""
        units = _units(read_text(path))
        parts = deal.spans([len(unit.strip()) for unit in units])
        return [["".join(units[low:high]).encode() for low, high in spans] for spans in parts]


def _units(text: str) -> list[str]:
    """The lines of ``text``, each with what is blank after it, the first with what is blank before it."""
    *ended, last = text.split("\n")
    units: list[str] = []
    blank = ""
    for line in (*(line + "\n" for line in ended), last):
        if line.strip():
            units.append(blank + line)
            blank = ""
        elif units:
            units[-1] += line
        else:
            blank += line
    return units


def portions(cut: Cut | None, files: Files, shares: Sequence[float], seed: int, folder: Path) -> tuple[Files, ...]:
    """``files`` in disjoint pieces, one for each of ``shares``; a piece may be empty where examples are few.

    Args:
        cut: None where the data cannot be cut: all of it is the first piece.
        shares: Cumulative: the first n pieces together hold this share of the examples (of the text, for spans).
        seed: Tells which examples come first.
        folder: An empty folder for the pieces, about as large as the data; nothing is written when there is one share.

    Raises:
        CheckpointError: when data cannot be read.
        StorageError: when a piece cannot be written.
    """
    if cut is None or len(shares) == 1:
        return (files, *(() for _ in shares[1:]))
    deal = Deal(shares, seed)
    made: list[list[Path]] = [[] for _ in shares]
    for path in files:
        for i, contents in enumerate(cut.pieces(path, deal)):
            for content in contents:
                made[i].append(_written(folder / f"{i}-{len(made[i])}{path.suffix}", content))
    return tuple(map(tuple, made))


def _written(path: Path, content: bytes) -> Path:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def checked_shares(shares: Sequence[float]) -> tuple[float, ...]:
    """``shares``, when they are cumulative shares.

    >>> checked_shares([0.1, 0.3, 1])
    (0.1, 0.3, 1.0)

    Raises:
        RecipeError: unless they rise, are positive and end with 1.
    """
    found = tuple(float(share) for share in shares)
    rising = all(a < b for a, b in zip((0.0, *found), found, strict=False))
    if not found or not rising or found[-1] != 1:
        told = ", ".join(f"{share:g}" for share in found) or "nothing"
        raise RecipeError(Problem(f"shares of the data are {told}", fix="rising numbers that end with 1: 0.1, 0.3, 1"))
    return found


def joined(given: Sequence[Predictions]) -> Predictions:
    """The rows of ``given``, one after another.

    Probabilities of classes that a part does not know are 0, as those of choices that a question does not have.

    >>> joined([{"x": np.array([1])}, {"x": np.array([2, 3])}])
    {'x': array([1, 2, 3])}

    Raises:
        ExecutionError: when columns differ.
    """
    if len(given) == 1:
        return given[0]
    parts = {name: [one[name] for one in given if name in one] for name in {**given[0], **given[-1]}}
    if "probabilities" in parts:
        parts["probabilities"] = _widened(parts["probabilities"])
    if any(len(own) < len(given) or len({part.shape[1:] for part in own}) > 1 for own in parts.values()):
        message = f"predictions of pieces of the data have other columns or shapes: {_shapes(given)}"
        raise ExecutionError(Problem(message, fix="measure it on all data at once"))
    return {name: np.concatenate(own) for name, own in parts.items()}


def _widened(parts: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    most = max(part.shape[1] for part in parts)
    return [np.pad(part, ((0, 0), (0, most - part.shape[1]))) for part in parts]


def _shapes(given: Sequence[Predictions]) -> list[Mapping[str, tuple[int, ...]]]:
    return [{name: column.shape for name, column in one.items()} for one in given]
