"""A weight with a change on it that is made of several small matrices: LoHa, LoKr, LoRA with a core.

Whole rows of the change are made for a block, each element in a fixed order of operations, so bytes depend neither on
threads nor on how a tensor is cut. Nothing is kept between blocks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np

from stockpot.checkpoint.model import TensorRef
from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.changed import Changed
from stockpot.execute.evaluate import Bytes, Evaluator
from stockpot.execute.workspace import Workspace
from stockpot.kernels import convert, low_rank
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Floats
from stockpot.planning.adapters.products import Factors, Hadamard, Kronecker
from stockpot.planning.blocks import Grid
from stockpot.planning.model import Compute, Read

__all__ = ["HadamardAdapter", "KroneckerAdapter"]


class _Products(Changed):
    """A weight and the matrices that its change is made of."""

    def __init__(
        self, node: Compute, grid: Grid, reader: PayloadReader, children: tuple[Evaluator | Read, ...]
    ) -> None:
        super().__init__(node, grid, reader, children)
        form = node.form
        assert isinstance(form, Hadamard | Kronecker)
        self._columns = form.parts[0].columns if isinstance(form, Hadamard) else form.columns
        self._scale = form.scale
        refs = iter(c.ref for c in node.companions if isinstance(c, Read))
        self._matrices = tuple(_Matrix(self, i, part, list(_taken(refs, part))) for i, part in enumerate(form.parts))

    def compute(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        """A block of the weight, with the change added."""
        values = space.take(("adapted", self.height), (n,), np.float64)
        self._weight(start, n, space, values)
        first, last = start // self._columns, -(-(start + n) // self._columns)
        change = self._change(first, last, space)
        change *= self._scale
        begin = start - first * self._columns
        values += change.reshape(-1)[begin : begin + n]
        return bool(convert.narrow_block(values, n, out, code))

    @abstractmethod
    def _change(self, first: int, last: int, space: Workspace) -> Floats:
        """Rows first … last of the change, before it is scaled."""


def _taken(refs: Iterator[TensorRef], part: Factors) -> Iterator[TensorRef]:
    for _ in range(part.count):
        yield next(refs)


class HadamardAdapter(_Products):
    """The change is the elementwise product of one or two matrices."""

    def _change(self, first: int, last: int, space: Workspace) -> Floats:
        one, *others = self._matrices
        change = one.rows(first, last, space)
        for other in others:
            change *= other.rows(first, last, space)
        return change


class KroneckerAdapter(_Products):
    """The change is the Kronecker product of two matrices: of each pair of their rows the outer product."""

    def _change(self, first: int, last: int, space: Workspace) -> Floats:
        left, right = self._matrices
        height = right.part.rows
        change = space.take(("change", self.height), (last - first, self._columns), np.float64)
        above = left.rows(first // height, -(-last // height), space)
        whole = right.rows(0, height, space) if last - first >= height else None
        for i, row in enumerate(above, first // height):
            low, high = max(first - i * height, 0), min(last - i * height, height)
            below = right.rows(low, high, space) if whole is None else whole[low:high]
            place = change[i * height + low - first : i * height + high - first]
            shape = (high - low, left.part.columns, right.part.columns)
            np.multiply(row[None, :, None], below[:, None, :], out=place.reshape(shape))
        return change


class _Matrix:
    """One of the matrices: any of its rows."""

    def __init__(self, owner: _Products, number: int, part: Factors, refs: list[TensorRef]) -> None:
        self._owner, self._number, self.part, self._refs = owner, number, part, refs

    def rows(self, first: int, last: int, space: Workspace) -> Floats:
        """Rows first … last, valid until they are asked for again; sums go over the rank in order."""
        part = self.part
        found = self._take("rows", (last - first, part.columns), space)
        if part.rank == 0:
            self._read(0, first * part.columns, space, found)
            return found
        found.fill(0.0)
        left, right, acc = self._left(first, last, space), self._right(space), space.take(("sum",), (ROW,), np.float64)
        low_rank.add_low_rank(found.reshape(-1), 0, found.size, left, right, 1.0, acc)
        return found

    def _left(self, first: int, last: int, space: Workspace) -> Floats:
        part = self.part
        found = self._take("left", (last - first, part.rank), space)
        if not part.crossed:
            self._read(0, first * part.rank, space, found)
            return found
        stored = self._take("crossed", (part.rank, part.rows), space)
        self._read(0, 0, space, stored)
        found[:] = stored[:, first:last].T
        return found

    def _right(self, space: Workspace) -> Floats:
        """The right factor; with a core, that multiplied into it: Σ_j core[i, j, k] · right[j, column]."""
        part = self.part
        if not part.inner:
            found = self._take("right", (part.rank, part.columns), space)
            self._read(1, 0, space, found)
            return found
        width = part.columns // part.kernel
        right = self._take("right", (part.inner, width), space)
        core = self._take("core", (part.rank, part.inner, part.kernel), space)
        self._read(1, 0, space, right)
        self._read(2, 0, space, core)
        found = self._take("product", (part.rank, width, part.kernel), space)
        found.fill(0.0)
        for j in range(part.inner):
            found += core[:, j, None, :] * right[j, :, None]
        return found.reshape(part.rank, part.columns)

    def _take(self, role: str, shape: tuple[int, ...], space: Workspace) -> Floats:
        found: Floats = space.take((role, self._number, self._owner.height), shape, np.float64)
        return found

    def _read(self, number: int, start: int, space: Workspace, out: Floats) -> None:
        self._owner.widened(self._refs[number], start, space, out.reshape(-1))
