"""The values of a model's tensors as float64, block by block, whatever they are stored as."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stockpot.checkpoint.model import Checkpoint
from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.evaluators import evaluator_of
from stockpot.execute.workspace import Workspace
from stockpot.kernels import convert
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Floats
from stockpot.planning.blocks import grid_of
from stockpot.planning.model import Read
from stockpot.planning.structure import LeafView

__all__ = ["Values", "values_of"]

Values = Callable[[int, int, Workspace], Floats]
"""(first element, number of elements, buffers) → those elements, in an array of their own."""


def values_of(checkpoint: Checkpoint, name: str, reader: PayloadReader) -> Values:
    """Values of the float tensor ``name``: scales applied, packed formats unpacked."""
    operand = LeafView(checkpoint).lower(name)
    if isinstance(operand, Read):
        ref, width = operand.ref, operand.dtype.itemsize

        def stored(start: int, n: int, space: Workspace) -> Floats:
            raw = space.take(("stored",), (n * width,), np.uint8)
            reader.read(ref, start * width, raw.data)
            values = np.empty(n)
            convert.widen_block(raw, ref.dtype.kernel, n, values, np.zeros(ROW))
            return values

        return stored
    evaluator = evaluator_of(operand, grid_of(operand, operand.shape), reader, {})

    def made(start: int, n: int, space: Workspace) -> Floats:
        values = np.empty(n)
        evaluator.compute(start, n, space, values.view(np.uint8), 0)
        return values

    return made
