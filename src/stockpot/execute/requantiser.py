"""Values as 8-bit floats with scales, as the model that they replace has them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stockpot.checkpoint.dtypes import DTYPES
from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.evaluate import Bytes, Evaluator, Phase, Tick
from stockpot.execute.workspace import Workspace
from stockpot.kernels import convert, scales
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Floats
from stockpot.planning.blocks import Grid, operand_grid
from stockpot.planning.coded import Requantised
from stockpot.planning.model import Compute, Read

__all__ = ["Requantiser"]


class Requantiser(Evaluator):
    """Weights, or their scales, from the values: both are computed from the same blocks, so that they belong together.

    A block of the values holds whole stripes, so their scales are those of that block alone; one scale of a whole
    tensor takes a pass before. Nothing else is kept between blocks.
    """

    def __init__(
        self, node: Compute, grid: Grid, reader: PayloadReader, children: tuple[Evaluator | Read, ...]
    ) -> None:
        super().__init__(node, grid, reader, children)
        assert isinstance(node.form, Requantised)
        self._form, self._below = node.form, operand_grid(node, node.inputs[0], grid)
        self._found: Floats = np.empty((0, 0))

    @classmethod
    def settle(cls, members: tuple[Requantiser, ...]) -> Iterator[Phase]:
        """One pass for the largest magnitude of a whole tensor, where one scale holds for all."""
        (member,) = members
        yield from member.measured()

    def measured(self) -> Iterator[Phase]:
        """That pass, where it is needed."""
        if not self._form.whole:
            return
        parts = np.zeros(self._below.count)

        def run(block: int, space: Workspace, _: Tick) -> None:
            parts[block] = self._largest(self._values(block, space), space).max()

        def finish() -> None:
            self._found = self._rounded(np.full((1, 1), parts.max()))

        yield Phase("largest", self._below.count, run, finish)

    def compute(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        """A block of weights, or of scales."""
        if not self._form.scales:
            return self._weights(start, n, space, out, code)
        found = self._found
        if not self._form.whole:
            found = self._rounded(self._largest(self._values(start // self.grid.size, space), space))
        flat = np.ascontiguousarray(found).reshape(-1)
        if code >= 0:
            return bool(convert.narrow_block(flat, n, out, code))
        out[:] = (np.frexp(flat)[1] + 126).astype(np.uint8)  # F8_E8M0: the exponent of a power of two
        return not bool(np.isfinite(flat).all())

    def _weights(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        form = self._form
        values = self._values(start // self.grid.size, space)
        found = self._found if form.whole else self._rounded(self._largest(values, space))
        down, across = (max(1, n // form.columns), form.columns) if form.whole else (self._down, form.block[1])
        scales.scale_blocks(values, 0, n, form.columns, max(1, n // form.columns), down, across, found, 0, True)
        np.clip(values, -form.largest, form.largest, out=values)  # what is NaN stays so, and is told
        return bool(convert.narrow_block(values, n, out, code))

    @property
    def _down(self) -> int:
        return self._form.stripe // self._form.columns

    def _values(self, block: int, space: Workspace) -> Floats:
        """A block of the operand."""
        child, code = self._children[0], int(self.codes[0])
        start, n = self._below.block(block)
        values = space.take(("requantised", self.height), (n,), np.float64)
        if not isinstance(child, Read):
            child.compute(start, n, space, values.view(np.uint8), 0)
            return values
        width = convert.WIDTHS[code]
        raw: Bytes = space.take(("stored",), (n * width,), np.uint8)
        self._reader.read(child.ref, start * width, raw.data)
        convert.widen_block(raw, code, n, values, np.zeros(ROW))
        return values

    def _largest(self, values: Floats, space: Workspace) -> Floats:
        """The largest magnitude of each block: (stripes, blocks of a stripe), or of all."""
        form = self._form
        rows = values.size // form.columns
        down, across = (rows, form.columns) if form.whole else (self._down, form.block[1])
        found = space.take(("largest", self.height), (-(-rows // down), -(-form.columns // across)), np.float64)
        scales.largest_of_blocks(values, values.size, form.columns, down, across, found)
        return found

    def _rounded(self, largest: Floats) -> Floats:
        """Scales as they are stored, in float64; 1 where there is nothing to scale."""
        form, dtype = self._form, DTYPES[self._form.dtype]
        scale = np.ascontiguousarray(largest / form.largest).reshape(-1)
        if form.power:
            fraction, exponent = np.frexp(scale)
            powers = np.ldexp(1.0, np.clip(exponent - (fraction == 0.5), -127, 127))
            scale = np.where(np.isfinite(scale) & (scale > 0), powers, scale)
        if dtype.is_float:
            raw = np.empty(scale.size * dtype.itemsize, np.uint8)
            convert.narrow_block(scale, scale.size, raw, dtype.kernel)
            convert.widen_block(raw, dtype.kernel, scale.size, scale, np.zeros(ROW))
        return np.where(scale == 0, 1.0, scale).reshape(largest.shape)
