"""Rows of an operand by number, whether it is stored or computed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.evaluate import Bytes, Evaluator
from stockpot.execute.workspace import Workspace
from stockpot.kernels import convert
from stockpot.kernels.sizes import ROW
from stockpot.planning.model import Read
from stockpot.transplanting.table import Floats, Ints, Singles

__all__ = ["FetchedRows", "KeptRows", "kept_rows"]

_GAP = 4
"""Rows that nobody asked for are read along, where so few lie between two that are wanted."""


class FetchedRows:
    """A matrix whose rows are read, or computed, when they are asked for; of one worker.

    Args:
        child: The operand.
        code: Kernel's number of its dtype.
        width: Elements of a row.
        reader: Of payloads.
        space: The worker's buffers.
    """

    def __init__(self, child: Evaluator | Read, code: int, width: int, reader: PayloadReader, space: Workspace) -> None:
        self._child, self._code, self._width, self._reader, self._space = child, code, width, reader, space
        self._block, self._values = -1, np.empty(0)

    @property
    def width(self) -> int:
        """Length of a row."""
        return self._width

    def take(self, numbers: Ints) -> Floats:
        """These rows in float64."""
        out = np.empty((len(numbers), self._width))
        order = np.argsort(numbers, kind="stable")
        for part in _runs(numbers[order]):
            places = order[part]
            first, last = int(numbers[places[0]]), int(numbers[places[-1]])
            rows = self._elements(first * self._width, (last + 1 - first) * self._width).reshape(-1, self._width)
            out[places] = rows[numbers[places] - first]
        return out

    def singles(self, numbers: Ints) -> Singles:
        """These rows in float32."""
        return self.take(numbers).astype(np.float32)

    def _elements(self, start: int, n: int) -> Floats:
        out = np.empty(n)
        if isinstance(self._child, Read):
            width = convert.WIDTHS[self._code]
            raw: Bytes = np.empty(n * width, np.uint8)
            self._reader.read(self._child.ref, start * width, raw.data)
            convert.widen_block(raw, self._code, n, out, np.zeros(ROW))
            return out
        done = 0
        while done < n:
            block, shift = divmod(start + done, self._child.grid.size)
            values = self._computed(self._child, block)[shift : shift + n - done]
            out[done : done + values.size] = values
            done += values.size
        return out

    def _computed(self, child: Evaluator, block: int) -> Floats:
        """A block of an operand that is computed; the last one is kept, as rows mostly follow one another."""
        if block != self._block:
            start, n = child.grid.block(block)
            raw: Bytes = np.empty(n * convert.WIDTHS[self._code], np.uint8)
            child.compute(start, n, self._space, raw, self._code)
            self._values = np.empty(n)
            convert.widen_block(raw, self._code, n, self._values, np.zeros(ROW))
            self._block = block
        return self._values


def _runs(numbers: Ints) -> Iterator[slice]:
    """Places of ascending ``numbers`` that are read in one piece."""
    bounds = np.flatnonzero(np.diff(numbers) > _GAP) + 1
    yield from map(slice, (0, *bounds.tolist()), (*bounds.tolist(), len(numbers)))


class KeptRows:
    """Some rows of a matrix in float32, which holds them exactly where they are stored in no more; for all workers.

    Args:
        numbers: Of the rows, ascending.
        values: The rows.
    """

    def __init__(self, numbers: Ints, values: Singles) -> None:
        self._numbers, self._values = numbers, values

    @property
    def width(self) -> int:
        """Length of a row."""
        return int(self._values.shape[1])

    def take(self, numbers: Ints) -> Floats:
        """These rows in float64."""
        return self._values[np.searchsorted(self._numbers, numbers)].astype(np.float64)

    def singles(self, numbers: Ints) -> Singles:
        """These rows in float32."""
        first = int(np.searchsorted(self._numbers, numbers[0])) if len(numbers) else 0
        stop = first + len(numbers)
        if np.array_equal(self._numbers[first:stop], numbers):
            return self._values[first:stop]
        return self._values[np.searchsorted(self._numbers, numbers)]


def kept_rows(rows: FetchedRows, numbers: Ints, step: int) -> KeptRows:
    """Rows ``numbers`` of a matrix, read in order, ``step`` at a time."""
    values = np.empty((len(numbers), rows.width), np.float32)
    for start in range(0, len(numbers), step):
        values[start : start + step] = rows.singles(numbers[start : start + step])
    return KeptRows(numbers, values)
