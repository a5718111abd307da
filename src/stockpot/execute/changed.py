"""What the evaluators of adapters share: the weight that is changed, and small tensors read as float64."""

from __future__ import annotations

import numpy as np

from stockpot.checkpoint.model import TensorRef
from stockpot.execute.evaluate import Bytes, Evaluator
from stockpot.execute.workspace import Workspace
from stockpot.kernels import convert
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Floats
from stockpot.planning.model import Read

__all__ = ["Changed"]


class Changed(Evaluator):
    """A weight, or zeros where there is no input, to which something is added."""

    def _weight(self, start: int, n: int, space: Workspace, values: Floats) -> None:
        """Elements start … start + n of the weight as float64; zeros where only the change is wanted."""
        if self.count == 0:
            values.fill(0.0)
            return
        child, code = self._children[0], int(self.codes[0])
        width = convert.WIDTHS[code]
        raw: Bytes = space.take(("weight", self.height), (n * width,), np.uint8)
        if isinstance(child, Read):
            self._reader.read(child.ref, start * width, raw.data)
        else:
            child.compute(start, n, space, raw, code)
        convert.widen_block(raw, code, n, values, np.zeros(ROW))

    def widened(self, ref: TensorRef, start: int, space: Workspace, out: Floats) -> None:
        """Elements start … of a factor as float64, as many as ``out`` has."""
        width = ref.dtype.itemsize
        raw: Bytes = space.take(("factor", self.height), (out.size * width,), np.uint8)
        self._reader.read(ref, start * width, raw.data)
        convert.widen_block(raw, ref.dtype.kernel, out.size, out, np.zeros(ROW))
