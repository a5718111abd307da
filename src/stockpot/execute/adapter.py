"""A weight with a low-rank adapter on it: W + scale · left · right, any range of elements at a time."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock

import numpy as np

from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import ExecutionError, Problem
from stockpot.execute.changed import Changed
from stockpot.execute.evaluate import Bytes, Evaluator, NotFiniteError, OrderedSum, Phase, Tick
from stockpot.execute.workspace import Workspace
from stockpot.kernels import convert, gram, low_rank
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Floats
from stockpot.planning.blocks import Grid
from stockpot.planning.forms import LowRank
from stockpot.planning.model import Compute, Read

__all__ = ["Adapter"]


_STRETCH = 1 << 20


class Adapter(Changed):
    """A weight and the two factors of what is added to it.

    For each block the right factor is read (it is small, and in the page cache after the first block) and those
    rows of the left one that the block lies in. Nothing is kept between blocks, and each element is a sum over the
    rank in order, so memory is bounded and bytes depend neither on threads nor on how a tensor is cut. Of DoRA, a pass
    before measures the rows (or columns), and each is brought to the length that the adapter gives it.
    """

    def __init__(
        self, node: Compute, grid: Grid, reader: PayloadReader, children: tuple[Evaluator | Read, ...]
    ) -> None:
        super().__init__(node, grid, reader, children)
        assert isinstance(node.form, LowRank)
        self._part = node.form
        left, right = node.companions[:2]
        assert isinstance(left, Read)
        assert isinstance(right, Read)
        self._left, self._right = left.ref, right.ref
        self._factors: Floats = np.empty(0)
        self._passed, self._lock = not self._part.crossed, Lock()

    @classmethod
    def settle(cls, members: tuple[Adapter, ...]) -> Iterator[Phase]:
        """Of DoRA: one pass for the lengths of the rows (or columns) of the sum."""
        (member,) = members
        yield from member.measured()

    def measured(self) -> Iterator[Phase]:
        """The pass for those lengths, where they are needed."""
        if not self._part.weighed:
            return
        crossed, sums = self._part.crossed, OrderedSum()
        parts: dict[int, Floats] = {}

        def run(block: int, space: Workspace, _: Tick) -> None:
            start, n = self.grid.block(block)
            part = self._squares(self._sum(start, n, space), n, space)
            if crossed:
                sums.add(block, part)
            else:
                parts[block] = part

        def finish() -> None:
            self._weigh(sums.total if crossed else np.concatenate([parts[i] for i in range(self.grid.count)]))

        yield Phase("lengths", self.grid.count, run, finish)

    def _squares(self, values: Floats, n: int, space: Workspace) -> Floats:
        """Sums of squares of whole rows: of each, or of each column."""
        raw, codes, columns = values.view(np.uint8).reshape(1, -1), np.zeros(1, np.int64), self._part.columns
        scratch = space.take(("scratch",), (4, ROW), np.float64)
        if self._part.crossed:
            by_column = np.empty((1, 1, columns))
            gram.gram_columns(raw, codes, n // columns, columns, -1, 1, by_column, scratch)
            return by_column.reshape(-1)
        by_row = np.zeros((n // columns, 1, 1))
        gram.gram_rows(raw, codes, n // columns, columns, -1, 1, by_row, scratch)
        return by_row.reshape(-1)

    def _weigh(self, squares: Floats) -> None:
        """The factors that give each row (or column) its length."""
        if not np.isfinite(squares).all():
            raise NotFiniteError
        lengths = self.node.companions[2]
        assert isinstance(lengths, Read)
        wanted = np.empty(squares.size)
        self.widened(lengths.ref, 0, Workspace(), wanted)
        if not squares.all():
            message = f"{lengths.model} gives a length to weights that are all zero (output {int(np.argmin(squares))})"
            raise ExecutionError(Problem(message, tensor=self.node.key[0], line=self.node.line))
        self._factors = wanted / np.sqrt(squares)

    def compute(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        """A block of the weight, with the adapter's part added."""
        part, values = self._part, self._sum(start, n, space)
        if part.weighed:
            row, column = divmod(start, part.columns)
            low_rank.scale_lines(values, row, column, n, part.columns, self._factors, part.crossed)
        return bool(convert.narrow_block(values, n, out, code))

    def _sum(self, start: int, n: int, space: Workspace) -> Floats:
        """A block of W + scale · left · right."""
        part = self._part
        values = space.take(("adapted", self.height), (n,), np.float64)
        self._weight(start, n, space, values)
        first, last = start // part.columns, -(-(start + n) // part.columns)
        left = space.take(("left", self.height), (last - first, part.rank), np.float64)
        right = space.take(("right", self.height), (part.rank, part.columns), np.float64)
        self._read_left(first, last, space, left)
        self._read_right(space, right)
        acc = space.take(("sum",), (ROW,), np.float64)
        low_rank.add_low_rank(values, start % part.columns, n, left, right, part.scale, acc)
        return values

    def _read_left(self, first: int, last: int, space: Workspace, left: Floats) -> None:
        """Rows first … last of the left factor; stored transposed, they are a piece of each of its rows."""
        rank, rows = self._part.rank, last - first
        if not self._part.crossed:
            self.widened(self._left, first * rank, space, left.reshape(-1))
            return
        self._pass_once()
        piece = space.take(("piece", self.height), (rows,), np.float64)
        for k in range(rank):
            self.widened(self._left, k * self._part.rows + first, space, piece)
            left[:, k] = piece

    def _pass_once(self) -> None:
        """Read the left factor in order, once: what is read in strips is hashed slowly, and held until then."""
        with self._lock:
            if self._passed:
                return
            room = bytearray(_STRETCH)
            for start in range(0, self._left.nbytes, _STRETCH):
                self._reader.read(self._left, start, memoryview(room)[: min(_STRETCH, self._left.nbytes - start)])
            self._passed = True

    def _read_right(self, space: Workspace, right: Floats) -> None:
        if not self._part.crossed:
            self.widened(self._right, 0, space, right.reshape(-1))
            return
        stored = space.take(("stored", self.height), (self._part.columns, self._part.rank), np.float64)
        self.widened(self._right, 0, space, stored.reshape(-1))
        right[:] = stored.T
