"""The number formats of GGUF files, by their number in the format's description (ggml's ``ggml_type``)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from stockpot.checkpoint.dtypes import DTYPES, DType
from stockpot.checkpoint.model import TensorRef
from stockpot.errors import Problem, UnsupportedError

__all__ = ["GGML_TYPES", "needs_gguf", "type_number"]

_PLAIN = {0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"}

_PACKED = {
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}  # fmt: skip
"""Number → name, elements of a group, bytes of a group."""

GGML_TYPES: Mapping[int, DType] = MappingProxyType(
    {number: DTYPES[code] for number, code in _PLAIN.items()}
    | {number: DType(code, 8 * size, "packed", -1, None, per=per) for number, (code, per, size) in _PACKED.items()}
)
"""Number → dtype. Formats that nobody stores weights in (such as Q8_1, Q8_K) are left out."""

_NUMBERS = {code: number for number, (code, _, _) in _PACKED.items()}


def type_number(dtype: DType) -> int:
    """The number of a packed format.

    >>> type_number(GGML_TYPES[12])
    12
    """
    return _NUMBERS[dtype.code]


def needs_gguf(model: str, ref: TensorRef) -> UnsupportedError:
    """The error for a packed tensor where the gguf package is missing."""
    message = f"{model} holds {ref.dtype.code}, which needs the gguf package"
    return UnsupportedError(Problem(message, tensor=ref.name, file=ref.file, fix="pip install 'stockpot[gguf]'"))
