"""The tensor dtypes of the safetensors format: one table, used by readers, kernels and writers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np

from stockpot.errors import CheckpointError, Problem

__all__ = ["DTYPES", "DType", "dtype_named"]

Kind = Literal["float", "copied", "packed"]


@dataclass(frozen=True)
class DType:
    """One dtype of the format.

    Args:
        code: Its name in a safetensors header, such as ``"BF16"``.
        bits: Size of one element in bits, or of a group of ``per`` elements.
        kind: ``float`` is merged; ``copied`` (integers, booleans, complex) is taken from the base;
            ``packed`` (sub-byte and scale formats of quantised models) may only be copied whole.
        kernel: Number under which kernels know a float dtype, -1 for the others.
        numpy: Matching NumPy (ml_dtypes) dtype, None for packed formats.
        names: Other spellings in configs and recipes (torch's names).
        per: Elements of a group that is stored together with what scales it; 1 but for GGUF's packed formats.
    """

    code: str
    bits: int
    kind: Kind
    kernel: int
    numpy: np.dtype[Any] | None
    names: tuple[str, ...] = ()
    per: int = 1

    @property
    def itemsize(self) -> int:
        """Bytes of one element (of a whole number of bytes; packed formats count in bits)."""
        return self.bits // 8

    @property
    def is_float(self) -> bool:
        """Whether tensors of this dtype take part in merging arithmetic."""
        return self.kind == "float"

    @property
    def torch_name(self) -> str:
        """The name that config.json uses, e.g. ``bfloat16``."""
        return self.names[0] if self.names else self.code

    def nbytes(self, elements: int) -> int:
        """Bytes that ``elements`` elements take, rounded up to a whole byte."""
        return (elements * self.bits + 8 * self.per - 1) // (8 * self.per)


def _table() -> dict[str, DType]:
    rows = [
        DType("F64", 64, "float", 0, np.dtype(np.float64), ("float64", "double")),
        DType("F32", 32, "float", 1, np.dtype(np.float32), ("float32", "float", "fp32")),
        DType("BF16", 16, "float", 2, np.dtype(ml_dtypes.bfloat16), ("bfloat16", "bf16")),
        DType("F16", 16, "float", 3, np.dtype(np.float16), ("float16", "half", "fp16")),
        DType("F8_E4M3", 8, "float", 4, np.dtype(ml_dtypes.float8_e4m3fn), ("float8_e4m3fn",)),
        DType("F8_E5M2", 8, "float", 5, np.dtype(ml_dtypes.float8_e5m2), ("float8_e5m2",)),
        DType("BOOL", 8, "copied", -1, np.dtype(np.bool_), ("bool",)),
        DType("U8", 8, "copied", -1, np.dtype(np.uint8), ("uint8",)),
        DType("I8", 8, "copied", -1, np.dtype(np.int8), ("int8",)),
        DType("I16", 16, "copied", -1, np.dtype(np.int16), ("int16", "short")),
        DType("U16", 16, "copied", -1, np.dtype(np.uint16), ("uint16",)),
        DType("I32", 32, "copied", -1, np.dtype(np.int32), ("int32", "int")),
        DType("U32", 32, "copied", -1, np.dtype(np.uint32), ("uint32",)),
        DType("I64", 64, "copied", -1, np.dtype(np.int64), ("int64", "long")),
        DType("U64", 64, "copied", -1, np.dtype(np.uint64), ("uint64",)),
        DType("C64", 64, "copied", -1, np.dtype(np.complex64), ("complex64", "cfloat")),
        DType("F8_E8M0", 8, "packed", -1, None, ("float8_e8m0fnu",)),
        DType("F8_E4M3FNUZ", 8, "packed", -1, None, ("float8_e4m3fnuz",)),
        DType("F8_E5M2FNUZ", 8, "packed", -1, None, ("float8_e5m2fnuz",)),
        DType("F6_E2M3", 6, "packed", -1, None),
        DType("F6_E3M2", 6, "packed", -1, None),
        DType("F4", 4, "packed", -1, None, ("float4_e2m1fn_x2",)),
    ]
    return {row.code: row for row in rows}


DTYPES: dict[str, DType] = _table()
_BY_NAME = {name.lower(): d for d in DTYPES.values() for name in (d.code, *d.names)}


def dtype_named(name: str) -> DType:
    """The dtype that ``name`` means: a safetensors code, or torch's name (with ``torch.`` or not).

    >>> dtype_named("torch.bfloat16").code
    'BF16'

    Raises:
        CheckpointError: for a name that the format does not have.
    """
    found = _BY_NAME.get(name.lower().removeprefix("torch."))
    if found is None:
        known = ", ".join(d.torch_name for d in DTYPES.values() if d.is_float)
        raise CheckpointError(Problem(f"unknown dtype {name!r}", fix=f"one of {known}"))
    return found
