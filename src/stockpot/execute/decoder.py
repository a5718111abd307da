"""The values of tensors that are not stored as plain numbers: 8-bit floats with scales, GGUF's packed formats."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from stockpot.checkpoint.gguf.types import needs_gguf, type_number
from stockpot.checkpoint.model import TensorRef
from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import ExecutionError, Problem
from stockpot.execute.evaluate import Bytes, Evaluator
from stockpot.execute.workspace import Workspace
from stockpot.kernels import convert, scales
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Floats
from stockpot.planning.blocks import Grid
from stockpot.planning.coded import PIECE, Decoded
from stockpot.planning.model import Compute, Read

__all__ = ["Decoder"]

_POWERS = np.ldexp(1.0, np.arange(256) - 127)
_POWERS[255] = np.nan


class Decoder(Evaluator):
    """What is stored, times its scales, shifted and put into order; any range of elements at a time.

    Each element depends on its own group and scale alone, and nothing is kept between blocks.
    """

    def __init__(
        self, node: Compute, grid: Grid, reader: PayloadReader, children: tuple[Evaluator | Read, ...]
    ) -> None:
        super().__init__(node, grid, reader, children)
        assert isinstance(node.form, Decoded)
        self._form, self._elements = node.form, prod(node.shape)
        (stored,) = node.inputs
        assert isinstance(stored, Read)
        self._stored, self._model = stored.ref, stored.model
        scale = node.companions[0] if node.companions else None
        self._scale = scale.ref if isinstance(scale, Read) else None
        self._unpack = _unpacker(stored.ref, self._model) if node.form.packing else None

    def compute(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        """The values of a block."""
        whole = self._form.aligned
        first = start // whole * whole
        last = min(-(-(start + n) // whole) * whole, self._elements)
        values = self._values(first, last - first, space)
        return bool(convert.narrow_block(values[start - first :], n, out, code))

    def _values(self, start: int, n: int, space: Workspace) -> Floats:
        """Elements start … start + n, whole heads or groups, in their order."""
        form = self._form
        values = space.take(("decoded", self.height), (n,), np.float64)
        if self._unpack is None:
            _widened(self._stored, start, space, self._reader, values)
        else:
            self._unpacked(start, n, space, values)
        if self._scale is not None:
            self._scaled(start, n, space, values)
        if form.head:
            turned = space.take(("turned", self.height), (n,), np.float64)
            shape = (-1, form.head // 2, 2, form.columns)
            np.copyto(turned.reshape(-1, 2, form.head // 2, form.columns), values.reshape(shape).swapaxes(1, 2))
            values = turned
        if form.shift:
            values += form.shift
        return values

    def _unpacked(self, start: int, n: int, space: Workspace, values: Floats) -> None:
        assert self._unpack is not None
        per, size = self._form.group
        for done in range(0, n, PIECE):
            count = min(PIECE, n - done)
            raw: Bytes = space.take(("packed", self.height), (count // per * size,), np.uint8)
            self._reader.read(self._stored, (start + done) // per * size, raw.data)
            with np.errstate(all="ignore"):
                values[done : done + count] = self._unpack(raw.reshape(1, -1)).reshape(-1)
            found = ~np.isfinite(values[done : done + count])
            if found.any():
                raise self._damaged(start + done + int(np.argmax(found)))

    def _damaged(self, index: int) -> ExecutionError:
        place = [int(i) for i in np.unravel_index(index, self._stored.shape)]
        return ExecutionError(
            Problem(
                f"a weight that is not finite at {place} (as stored) of {self._model}",
                tensor=self._stored.name,
                file=self._stored.file,
                line=self.node.line,
                fix="the model is damaged: leave it out, or download it again",
            )
        )

    def _scaled(self, start: int, n: int, space: Workspace, values: Floats) -> None:
        """Multiply by the scales, of which the lines that the block lies in are read."""
        assert self._scale is not None
        form, (down, across) = self._form, self._form.block
        width, lines = -(-form.columns // across), -(-form.rows // down)

        def line(element: int) -> int:
            row = element // form.columns
            return row // form.rows * lines + row % form.rows // down

        first, last = line(start), line(start + n - 1) + 1
        found = space.take(("scales", self.height), (last - first, width), np.float64)
        _scales(self._scale, first * width, space, self._reader, found.reshape(-1))
        scales.scale_blocks(values, start, n, form.columns, form.rows, down, across, found, first, False)


def _widened(ref: TensorRef, start: int, space: Workspace, reader: PayloadReader, out: Floats) -> None:
    width = ref.dtype.itemsize
    raw: Bytes = space.take(("stored",), (out.size * width,), np.uint8)
    reader.read(ref, start * width, raw.data)
    convert.widen_block(raw, ref.dtype.kernel, out.size, out, np.zeros(ROW))


def _scales(ref: TensorRef, start: int, space: Workspace, reader: PayloadReader, out: Floats) -> None:
    """Elements start … of a tensor of scales; those of F8_E8M0 are powers of two."""
    if ref.dtype.is_float:
        _widened(ref, start, space, reader, out)
        return
    raw: Bytes = space.take(("powers",), (out.size,), np.uint8)
    reader.read(ref, start, raw.data)
    out[:] = _POWERS[raw]


def _unpacker(ref: TensorRef, model: str) -> Callable[[Any], Any]:
    """What makes float32 of the bytes of groups, in one row: it works row by row, so that many are slow.

    Raises:
        UnsupportedError: without the gguf package.
    """
    try:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError as error:
        raise needs_gguf(model, ref) from error
    kind = GGMLQuantizationType(type_number(ref.dtype))
    return lambda raw: dequantize(raw, kind)
