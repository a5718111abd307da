"""Where a NaN or an infinity came from: the slow look that is taken only after one was noticed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.dtypes import DType
from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import ExecutionError, Problem
from stockpot.planning.blocks import BLOCK
from stockpot.planning.model import Operand, Read, Step, reads

__all__ = ["alike", "damage", "explain", "mend"]


def explain(
    node: Operand,
    reader: PayloadReader,
    start: int = 0,
    n: int | None = None,
    *,
    step: Step | None = None,
) -> ExecutionError:
    """The error for a node whose result is not finite between elements ``start`` and ``start + n``.

    ``step`` is the step that it is the source of, if any.
    """
    return damage(node, reader, start, n) or _overflow(node, step)


def damage(node: Operand, reader: PayloadReader, start: int = 0, n: int | None = None) -> ExecutionError | None:
    """The error for the first NaN that ``node`` reads, else for an infinity; None where there is neither."""
    worst: ExecutionError | None = None
    for read in reads(node):
        stop = read.ref.elements if n is None or read.ref.shape != _shape(node) else start + n
        if not read.dtype.is_float:
            continue
        for first in range(start if read.ref.shape == _shape(node) else 0, stop, BLOCK):
            values = _values(read, reader, first, min(BLOCK, stop - first))
            for word, found in (("NaN", np.isnan(values)), ("infinite", np.isinf(values))):
                if not found.any():
                    continue
                error = _input_error(node, read, word, first + int(np.argmax(found)))
                if word == "NaN":
                    return error
                worst = worst or error
    return worst


def _shape(node: Operand) -> tuple[int, ...]:
    return node.ref.shape if isinstance(node, Read) else node.shape


def _models(operand: Operand) -> Iterator[Read]:
    """Every stored tensor below ``operand`` that is merged: companions, which are other things, left out."""
    if isinstance(operand, Read):
        yield operand
        return
    for child in (*operand.inputs, *(() if operand.base is None else (operand.base,))):
        yield from _models(child)


def alike(operand: Operand, reader: PayloadReader) -> bool:
    """Whether all stored tensors below ``operand`` hold the same values, NaN nowhere: a mask, not weights."""
    stored = list(_models(operand))
    if not stored or any(r.ref.shape != _shape(operand) or not r.dtype.is_float for r in stored):
        return False
    first, *others = stored
    for start in range(0, first.ref.elements, BLOCK):
        n = min(BLOCK, first.ref.elements - start)
        values = _values(first, reader, start, n)
        if np.isnan(values).any() or any(not np.array_equal(values, _values(o, reader, start, n)) for o in others):
            return False
    return True


def mend(step: Step, out: npt.NDArray[np.uint8], reader: PayloadReader, start: int, n: int) -> bool:
    """Put back the infinities that all inputs share; whether the result is then as it should be.

    Some checkpoints store masks with -inf, which every model has alike. Arithmetic makes NaN of them
    (the difference of two infinities), yet the merge of equal values is that value.
    """
    result = out[: n * step.dtype.itemsize].view(np.dtype(step.dtype.numpy))
    wrong = ~np.isfinite(_as_float64(out[: n * step.dtype.itemsize], step.dtype))
    shared: npt.NDArray[np.float64] | None = None
    for read in _models(step.source):
        if read.ref.shape != step.shape:
            return False
        if not read.dtype.is_float:
            return False
        values = _values(read, reader, start, n)[wrong]
        shared = values if shared is None else np.where(values == shared, shared, np.nan)
    if shared is None or not np.all(np.isinf(shared)):
        return False
    with np.errstate(invalid="ignore"):
        result[wrong] = shared.astype(result.dtype)
    return bool(np.all(np.isinf(_as_float64(out[: n * step.dtype.itemsize], step.dtype)[wrong])))


def _values(read: Read, reader: PayloadReader, start: int, n: int) -> npt.NDArray[np.float64]:
    raw = np.empty(n * read.dtype.itemsize, np.uint8)
    reader.read(read.ref, start * read.dtype.itemsize, raw.data)
    return _as_float64(raw, read.dtype)


def _as_float64(raw: npt.NDArray[np.uint8], dtype: DType) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return raw.view(np.dtype(dtype.numpy)).astype(np.float64)


def _input_error(node: Operand, read: Read, word: str, index: int) -> ExecutionError:
    shape = read.ref.shape
    place = tuple(int(i) for i in np.unravel_index(index, shape)) if shape else ()
    return ExecutionError(
        Problem(
            f"{word} weight at {list(place)} of {read.model}",
            tensor=read.ref.name,
            file=read.ref.file,
            line=getattr(node, "line", None),
            fix="the model is damaged: leave it out, or download it again",
        )
    )


def _overflow(node: Operand, step: Step | None) -> ExecutionError:
    what = f"does not fit {step.dtype.torch_name}" if step is not None else "is not a finite number"
    name = step.name if step is not None else getattr(node, "key", ("",))[0]
    return ExecutionError(
        Problem(
            f"a merged weight {what}",
            tensor=name,
            line=getattr(node, "line", None),
            fix="use a wider output (out_dtype: bfloat16 or float32) or smaller coefficients",
        )
    )
