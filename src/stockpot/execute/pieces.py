"""Ranges of tensors, one after another: an expert out of a tensor that holds all, or that tensor made of experts."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import numpy as np

from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.evaluate import Bytes, Evaluator
from stockpot.execute.workspace import Workspace
from stockpot.kernels import convert
from stockpot.kernels.sizes import ROW
from stockpot.planning.blocks import Grid
from stockpot.planning.forms import Pieces
from stockpot.planning.model import Compute, Read

__all__ = ["Joined"]


class Joined(Evaluator):
    """Any range of elements, read from the pieces that it lies in.

    An operand that is computed is asked for whole blocks of its own, as its method counts in them.
    """

    def __init__(
        self, node: Compute, grid: Grid, reader: PayloadReader, children: tuple[Evaluator | Read, ...]
    ) -> None:
        super().__init__(node, grid, reader, children)
        assert isinstance(node.form, Pieces)
        self._ranges = node.form.ranges
        self._starts = [0, *accumulate(count for _, count in self._ranges)]

    def compute(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        """Elements start … start + n; stored ones in the dtype that is wanted are copied as they are."""
        width, done, bad = convert.WIDTHS[code], 0, False
        while done < n:
            piece = bisect_right(self._starts, start + done) - 1
            first, count = self._ranges[piece]
            within = start + done - self._starts[piece]
            length = min(n - done, count - within)
            part = out[done * width : (done + length) * width]
            bad |= self._range(piece, first + within, length, space, part, code)
            done += length
        return bad

    def _range(self, piece: int, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        child = self._children[piece]
        if isinstance(child, Evaluator):
            return self._computed(child, start, n, space, out, code)
        own = int(self.codes[piece])
        if own == code:
            self._reader.read(child.ref, start * child.dtype.itemsize, out.data)
            return False
        raw: Bytes = space.take(("piece", self.height), (n * convert.WIDTHS[own],), np.uint8)
        self._reader.read(child.ref, start * child.dtype.itemsize, raw.data)
        values = space.take(("piece values", self.height), (n,), np.float64)
        convert.widen_block(raw, own, n, values, np.zeros(ROW))
        return bool(convert.narrow_block(values, n, out, code))

    def _computed(self, child: Evaluator, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        width, stop, bad = convert.WIDTHS[code], start + n, False
        for number in range(start // child.grid.size, -(-stop // child.grid.size)):
            first, count = child.grid.block(number)
            room: Bytes = space.take(("block", self.height), (count * width,), np.uint8)
            bad |= child.compute(first, count, space, room, code)
            low, high = max(first, start), min(first + count, stop)
            out[(low - start) * width : (high - start) * width] = room[(low - first) * width : (high - first) * width]
        return bad
