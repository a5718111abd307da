"""A tensor whose rows are made of rows of others, any range of elements at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, pairwise
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
from stockpot.planning.tokens.rows import MEAN, RowMap, SparseRows

__all__ = ["Gathered"]

_STRETCH = 1 << 20
_SUM, _RUN, _SCATTERED = range(3)
_FEW = 4
"""Rows that a run has at least, on average, to be read by itself."""

_AT_ONCE = 64
"""Rows that are read together when they are added up."""

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
        for low, high, kind in _stretches(rows.starts[first : last + 1], rows):
            begin, end = max((first + low) * columns, start), min((first + high) * columns, start + n)
            part, shift = values[begin - start : end - start], begin - (first + low) * columns
            entry, stop = int(rows.starts[first + low]), int(rows.starts[first + high])
            whole = shift == 0 and end == (first + high) * columns
            if kind == _RUN or (kind == _SCATTERED and not whole):
                self._copied(entry, stop, shift, space, part)
            elif kind == _SCATTERED:
                self._pieces(slice(entry, stop), 0, space, part)
            else:
                self._add(entry, stop, shift, space, part)
        return bool(convert.narrow_block(values, n, out, code))

    def _copied(self, entry: int, stop: int, shift: int, space: Workspace, part: Floats) -> None:
        """Rows from ``shift`` elements within the first on, in pieces of rows that follow one another."""
        rows, columns, done = self._form.map, self._form.columns, 0
        breaks = np.flatnonzero(np.diff(rows.rows[entry:stop]) != 1) + 1
        bounds = [0, *breaks.tolist(), stop - entry]
        for low, high in pairwise(bounds):
            size = min((high - low) * columns - shift, part.size - done)
            place = int(rows.rows[entry + low]) * columns + shift
            self._fetch(int(rows.operands[entry]), place, space, part[done : done + size])
            done, shift = done + size, 0

    def _add(self, entry: int, stop: int, column: int, space: Workspace, part: Floats) -> None:
        """One row, or a piece of it from ``column`` on, as the sum of its entries, in order."""
        part[:] = 0.0
        rows = self._form.map
        for low in range(entry, stop, _AT_ONCE):
            high = min(stop, low + _AT_ONCE)
            room = space.take(("entries", self.height), ((high - low) * part.size,), np.float64)
            for one, two in _alike(rows, low, high):
                found = room[(one - low) * part.size : (two - low) * part.size]
                if int(rows.rows[one]) == MEAN:
                    found.reshape(two - one, part.size)[:] = self._mean[column : column + part.size]
                else:
                    self._pieces(slice(one, two), column, space, found)
            lines = room.reshape(high - low, part.size)
            lines *= rows.factors[low:high, None]
            for line in lines:
                part += line

    def _pieces(self, entries: slice, column: int, space: Workspace, out: Floats) -> None:
        """The rows of ``entries``, all of one operand, or as long a piece of each from ``column`` on."""
        rows, many = self._form.map, entries.stop - entries.start
        operand, length = int(rows.operands[entries.start]), out.size // many
        starts = rows.rows[entries] * self._form.columns + column
        child, code = self._children[operand], int(self.codes[operand])
        if not isinstance(child, Read):
            for place, start in enumerate(starts.tolist()):
                self._fetch(operand, start, space, out[place * length : (place + 1) * length])
            return
        width = convert.WIDTHS[code]
        raw: Bytes = space.take(("raw rows", self.height), (out.size * width,), np.uint8)
        self._reader.read_pieces(child.ref, (starts * width).tolist(), raw.data)
        convert.widen_block(raw, code, out.size, out, _ZEROS)

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


def _stretches(starts: npt.NDArray[np.int64], rows: RowMap) -> Iterator[tuple[int, int, int]]:
    """Rows low … high that are made alike, and how: copied from few runs of rows, from many, or one that is a sum.

    Args:
        starts: Where the entries of each row begin, and where the last row's end.
        rows: All entries.
    """
    entries, counts = starts[:-1], np.diff(starts)
    if not rows.entries:
        yield from ((row, row + 1, _SUM) for row in range(len(entries)))
        return
    safe = np.minimum(entries, rows.entries - 1)
    copied = (counts == 1) & (rows.factors[safe] == 1.0) & (rows.rows[safe] != MEAN)
    same = copied[1:] & copied[:-1] & (rows.operands[safe[1:]] == rows.operands[safe[:-1]])
    bounds = [0, *(np.flatnonzero(~same) + 1).tolist(), len(entries)]
    for low, high in pairwise(bounds):
        if not copied[low]:
            yield low, high, _SUM
            continue
        runs = 1 + int((np.diff(rows.rows[entries[low] : entries[low] + high - low]) != 1).sum())
        yield low, high, _SCATTERED if runs * _FEW > high - low else _RUN


def _alike(rows: RowMap, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Entries of one operand that follow one another, those of the mean row apart."""
    same = (np.diff(rows.operands[low:high]) == 0) & ~np.diff(rows.rows[low:high] == MEAN)
    yield from pairwise([low, *(np.flatnonzero(~same) + 1 + low).tolist(), high])
