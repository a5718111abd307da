"""Where a NaN or an infinity came from: the slow look that is taken only after one was noticed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.dtypes import DType
from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import ExecutionError, Problem
from stockpot.plan.blocks import BLOCK
from stockpot.plan.model import Operand, Read, Step, reads

__all__ = ["explain", "tolerable"]


def explain(step: Step, reader: PayloadReader, start: int = 0, n: int | None = None) -> ExecutionError:
    """The error for a step whose result is not finite between elements ``start`` and ``start + n``."""
    stop = step.elements if n is None else start + n
    worst: ExecutionError | None = None
    for read in reads(step.source):
        if not read.dtype.is_float:
            continue
        for first in range(start, stop, BLOCK):
            values = _values(read, reader, first, min(BLOCK, stop - first))
            for word, found in (("NaN", np.isnan(values)), ("infinite", np.isinf(values))):
                if not found.any():
                    continue
                error = _input_error(step, read, word, first + int(np.argmax(found)))
                if word == "NaN":
                    return error
                worst = worst or error
    return worst or _overflow(step)


def tolerable(
    operand: Operand, out: npt.NDArray[np.uint8], dtype: DType, start: int, n: int, reader: PayloadReader
) -> bool:
    """Whether every infinity of a result stands where an input is infinite too, and nothing is NaN.

    Some checkpoints store masks with -inf, which every model shares.
    """
    result = _as_float64(out[: n * dtype.itemsize], dtype)
    if np.isnan(result).any():
        return False
    inherited = np.zeros(n, bool)
    for read in reads(operand):
        inherited |= np.isinf(_values(read, reader, start, n))
    return bool(np.all(inherited[np.isinf(result)]))


def _values(read: Read, reader: PayloadReader, start: int, n: int) -> npt.NDArray[np.float64]:
    raw = np.empty(n * read.dtype.itemsize, np.uint8)
    reader.read(read.ref, start * read.dtype.itemsize, raw.data)
    return _as_float64(raw, read.dtype)


def _as_float64(raw: npt.NDArray[np.uint8], dtype: DType) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return raw.view(np.dtype(dtype.numpy)).astype(np.float64)


def _input_error(step: Step, read: Read, word: str, index: int) -> ExecutionError:
    place = tuple(int(i) for i in np.unravel_index(index, step.shape)) if step.shape else ()
    return ExecutionError(
        Problem(
            f"{word} weight at {list(place)} of {read.model}",
            tensor=read.ref.name,
            file=read.ref.file,
            line=getattr(step.source, "line", None),
            fix="the model is damaged: leave it out, or download it again",
        )
    )


def _overflow(step: Step) -> ExecutionError:
    return ExecutionError(
        Problem(
            f"a merged weight does not fit {step.dtype.torch_name}",
            tensor=step.name,
            line=getattr(step.source, "line", None),
            fix="use a wider output (out_dtype: bfloat16 or float32) or smaller coefficients",
        )
    )
