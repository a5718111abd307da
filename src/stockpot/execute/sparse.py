"""A tensor whose rows are made of rows of others, any range of elements at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from threading import Lock

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.evaluate import Bytes, Evaluator, NotFiniteError, OrderedSum, Phase, Tick
from stockpot.execute.workspace import Workspace
from stockpot.kernels import convert
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Floats
from stockpot.planning.blocks import BLOCK, Grid
from stockpot.planning.model import Compute, Read, reads
from stockpot.planning.rows import MEAN, SparseRows

__all__ = ["Gathered"]

_STRETCH = 1 << 20
_NARROW = 16
_SERIAL = count(1)
_ZEROS = np.zeros(ROW)


class Gathered(Evaluator):
    """Rows of operands, copied or added up.

    Rows that follow one another in the result and in an operand are read in one piece. Each element is a sum over the
    entries of its row in order, so bytes depend neither on threads nor on how a tensor is cut.
    """

    def __init__(
        self, node: Compute, grid: Grid, reader: PayloadReader, children: tuple[Evaluator | Read, ...]
    ) -> None:
        super().__init__(node, grid, reader, children)
        assert isinstance(node.form, SparseRows)
        self._form = node.form
        self._serial = next(_SERIAL)
        self._mean: Floats = np.zeros(self._form.columns)
        self._passed, self._lock = False, Lock()

    @classmethod
    def settle(cls, members: tuple[Gathered, ...]) -> Iterator[Phase]:
        """The pass for the mean row, where it is needed."""
        (member,) = members
        yield from member.averaged()

    def averaged(self) -> Iterator[Phase]:
        """The pass over the first operand's rows that gives their mean."""
        total, columns = self._form.mean_of, self._form.columns
        if not self._form.map.uses_mean or not total:
            return
        height, sums = max(1, BLOCK // columns), OrderedSum()

        def run(block: int, space: Workspace, _: Tick) -> None:
            first = block * height
            rows = min(height, total - first)
            values = space.take(("rows", self.height), (rows * columns,), np.float64)
            self._fetch(0, first * columns, space, values)
            sums.add(block, _sum_of_rows(values.reshape(rows, columns)))

        def finish() -> None:
            if not np.isfinite(sums.total).all():
                raise NotFiniteError
            self._mean = sums.total / total

        yield Phase("mean row", -(-total // height), run, finish)

    def compute(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        """Some elements of the result."""
        self._pass_once(space)
        values = space.take(("rows", self.height), (n,), np.float64)
        columns, rows = self._form.columns, self._form.map
        first, last = start // columns, -(-(start + n) // columns)
        starts = rows.starts[first : last + 1]
        for low, high in _runs(starts, rows.operands, rows.rows, rows.factors):
            begin = max((first + low) * columns, start)
            end = min((first + high) * columns, start + n)
            part = values[begin - start : end - start]
            entry, many = int(starts[low]), int(starts[low + 1] - starts[low])
            if many == 1 and rows.factors[entry] == 1.0 and rows.rows[entry] != MEAN:
                shift = begin - (first + low) * columns
                self._fetch(int(rows.operands[entry]), int(rows.rows[entry]) * columns + shift, space, part)
            else:
                self._add(entry, many, begin % columns, space, part)
        return bool(convert.narrow_block(values, n, out, code))

    def _add(self, entry: int, many: int, column: int, space: Workspace, part: Floats) -> None:
        """One row, or a piece of it from ``column`` on, as the sum of its entries."""
        part[:] = 0.0
        rows = self._form.map
        row = space.take(("row", self.height), (part.size,), np.float64)
        for place in range(entry, entry + many):
            number, factor = int(rows.rows[place]), float(rows.factors[place])
            if number == MEAN:
                row[:] = self._mean[column : column + part.size]
            else:
                self._fetch(int(rows.operands[place]), number * self._form.columns + column, space, row)
            row *= factor
            part += row

    def _fetch(self, operand: int, start: int, space: Workspace, out: Floats) -> None:
        """Elements start … of an operand as float64."""
        child, code = self._children[operand], int(self.codes[operand])
        if isinstance(child, Read):
            width = convert.WIDTHS[code]
            raw: Bytes = space.take(("raw rows", self.height), (out.size * width,), np.uint8)
            self._reader.read(child.ref, start * width, raw.data)
            convert.widen_block(raw, code, out.size, out, _ZEROS)
            return
        done, size = 0, child.grid.size
        while done < out.size:
            block, shift = divmod(start + done, size)
            values = self._block(operand, child, block, space)[shift:]
            part = out[done : done + values.size]
            part[:] = values[: part.size]
            done += part.size

    def _block(self, operand: int, child: Evaluator, block: int, space: Workspace) -> Floats:
        """A block of an operand that is computed: the last one is kept, as rows mostly follow one another."""
        code, (start, n) = int(self.codes[operand]), child.grid.block(block)
        tag = space.take(("tag", self.height, operand), (2,), np.int64)
        kept = space.take(("kept", self.height, operand), (child.grid.size,), np.float64)
        if (int(tag[0]), int(tag[1])) != (self._serial, block):
            raw: Bytes = space.take(("raw block", self.height), (n * convert.WIDTHS[code],), np.uint8)
            child.compute(start, n, space, raw, code)
            convert.widen_block(raw, code, n, kept, _ZEROS)
            tag[:] = self._serial, block
        return kept[:n]

    def _pass_once(self, space: Workspace) -> None:
        """Read what is not read in order anyway, once: what is read in strips is hashed slowly, and held until then."""
        if self._passed:
            return
        with self._lock:
            if self._passed:
                return
            room = space.take(("stretch",), (_STRETCH,), np.uint8)
            for number, child in enumerate(self._children):
                whole = isinstance(child, Read) and self._form.map.in_order(number, child.ref.elements // self._columns)
                for read in () if whole else reads(child if isinstance(child, Read) else child.node):
                    for start in range(0, read.ref.nbytes, _STRETCH):
                        self._reader.read(read.ref, start, room[: min(_STRETCH, read.ref.nbytes - start)].data)
            self._passed = True

    @property
    def _columns(self) -> int:
        return max(1, self._form.columns)


def _sum_of_rows(values: Floats) -> Floats:
    """Row by row, in order, whatever the machine adds at a time."""
    if values.shape[1] < _NARROW:
        return np.asarray(np.add.accumulate(values, axis=0)[-1])
    total: Floats = values[0].copy()
    for row in values[1:]:
        total += row
    return total


def _runs(
    starts: npt.NDArray[np.int64],
    operands: npt.NDArray[np.int16],
    rows: npt.NDArray[np.int64],
    factors: Floats,
) -> Iterator[tuple[int, int]]:
    """Rows low … high that are copied from rows that follow one another; every other row alone.

    Args:
        starts: Where the entries of each row begin, and where the last row's end.
        operands, rows, factors: Of all entries.
    """
    entries, counts = starts[:-1], np.diff(starts)
    if not len(entries):
        return
    safe = np.minimum(entries, max(0, len(rows) - 1))
    single = counts == 1
    copied = single.copy()
    if len(rows):
        copied &= (factors[safe] == 1.0) & (rows[safe] != MEAN)
        follows = copied[1:] & copied[:-1] & (operands[safe[1:]] == operands[safe[:-1]])
        follows &= rows[safe[1:]] == rows[safe[:-1]] + 1
    else:
        follows = np.zeros(len(entries) - 1, np.bool_)
    bounds = np.flatnonzero(~follows) + 1
    yield from zip([0, *bounds.tolist()], [*bounds.tolist(), len(entries)], strict=True)
