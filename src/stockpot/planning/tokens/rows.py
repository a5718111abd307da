"""A tensor whose rows are made of rows of others: copied, averaged, combined or zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import xxhash

from stockpot.planning.forms import Form

__all__ = ["MEAN", "RowMap", "SparseRows", "row_map"]

MEAN = -1
"""In place of a row's number: the mean of the first operand's first rows."""

_ADDED = 3e8
"""Elements of rows that one thread adds up in a second (measured)."""

_COMPUTED = 8
_BLOCK = 1 << 18
_AT_ONCE = 64

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RowMap:
    """For each row of the result, of which rows of which operands it is the sum: a sparse matrix by rows.

    Row r is Σ ``factors[e]`` × row ``rows[e]`` of operand ``operands[e]`` over the entries e from ``starts[r]`` to
    ``starts[r + 1]``, added in that order: one entry of factor 1 copies a row, none makes it zero.

    Args:
        starts: (rows + 1) int64.
        operands: (entries) int16.
        rows: (entries) int64; :data:`MEAN` for the mean of the first operand's rows.
        factors: (entries) float64.
    """

    starts: Ints
    operands: npt.NDArray[np.int16]
    rows: Ints
    factors: npt.NDArray[np.float64]

    @property
    def count(self) -> int:
        """Rows of the result."""
        return len(self.starts) - 1

    @property
    def entries(self) -> int:
        """Rows read for them."""
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes itself."""
        return self.starts.nbytes + self.operands.nbytes + self.rows.nbytes + self.factors.nbytes

    @cached_property
    def digest(self) -> str:
        """Equal for equal maps, and short."""
        state = xxhash.xxh3_128()
        for array in (self.starts, self.operands, self.rows, self.factors):
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()

    @cached_property
    def uses_mean(self) -> bool:
        """Whether a mean of all rows is needed."""
        return bool((self.rows == MEAN).any())

    @cached_property
    def most(self) -> int:
        """Entries of the row that has most."""
        return int(np.diff(self.starts).max(initial=0))

    def in_order(self, operand: int, rows: int) -> bool:
        """Whether ``operand``, of ``rows`` rows, is read from its first row to its last, each once."""
        own = self.rows[self.operands == operand]
        return len(own) == rows and bool((own == np.arange(rows)).all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowMap) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"RowMap({self.count}, {self.digest})"


def row_map(
    starts: npt.ArrayLike, operands: npt.ArrayLike, rows: npt.ArrayLike, factors: npt.ArrayLike | None = None
) -> RowMap:
    """A map of these arrays; ``factors`` are 1 when they are not given.

    >>> row_map([0, 1, 1, 3], [0, 0, 1], [4, 0, 0], [1.0, 0.5, 0.5])  # a copy, a row of zeros, a mean of two
    RowMap(3, 2a75325725e94df2d62cdb35a0bcd518)
    """
    which = np.ascontiguousarray(rows, np.int64)
    weights = np.ones(len(which)) if factors is None else np.ascontiguousarray(factors, np.float64)
    made = RowMap(np.ascontiguousarray(starts, np.int64), np.ascontiguousarray(operands, np.int16), which, weights)
    for array in (made.starts, made.operands, made.rows, made.factors):
        array.flags.writeable = False
    assert len(made.operands) == made.entries == len(made.factors) == made.starts[-1]
    return made


@dataclass(frozen=True, slots=True)
class SparseRows(Form):
    """A tensor of ``map.count`` rows of ``columns`` elements, made of the rows of its operands.

    Operands have rows of as many elements, and any number of them. Nothing is kept of a tensor but the map, which the
    tensors of one model share, and the mean of the rows where it is needed.

    Args:
        map: Which rows.
        columns: Elements of a row; 1 for a bias of the vocabulary.
        mean_of: How many of the first operand's first rows :data:`MEAN` is the mean of.
    """

    name: ClassVar[str] = "rows"
    moves: ClassVar[bool] = True

    map: RowMap
    columns: int
    mean_of: int = field(default=0)

    @property
    def passes(self) -> int:
        """One for the mean, where it is needed."""
        return int(self.map.uses_mean)

    @property
    def held(self) -> tuple[object, int]:
        """The map, which is counted once for all tensors that share it."""
        return self.map.digest, self.map.nbytes

    def block_bytes(self, shape: tuple[int, ...], widths: Sequence[int], elements: int) -> int:
        """A block as rows are read and as they are added up, where runs begin, a block of what is computed first."""
        del shape
        entries = min(_AT_ONCE, self.map.most) * min(elements, self.columns)
        computed = sum(width == _COMPUTED for width in widths)
        runs = 64 * (elements // max(1, self.columns) + 2)
        return (16 + max(widths, default=8)) * (elements + entries) + runs + 16 * _BLOCK * computed

    def shared_bytes(self, shape: tuple[int, ...]) -> int:
        """The mean row, and what waits to be added to it."""
        del shape
        return 8 * 16 * self.columns if self.map.uses_mean else 0

    def seconds(self, shape: tuple[int, ...]) -> float:
        """Rows that are added up, and some time for each row that is read alone."""
        return max(0, self.map.entries - self.map.count) * max(1, prod(shape[1:])) / _ADDED
