"""Dtypes, arrays in memory, and the names that the room offers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import stockpot.checkpoint
from stockpot.checkpoint import DTYPES, PayloadReader, dtype_named, from_arrays
from stockpot.errors import CheckpointError


def test_public_names() -> None:
    """What the package offers is complete, sorted, and there."""
    names = stockpot.checkpoint.__all__
    assert sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n)) == names
    assert all(hasattr(stockpot.checkpoint, name) for name in names)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))
def test_dtype_table(dtype: stockpot.checkpoint.DType) -> None:
    """Every row agrees with NumPy about sizes, and is found under all its names."""
    if dtype.numpy is not None:
        assert dtype.numpy.itemsize == dtype.itemsize
    assert (dtype.kernel >= 0) == dtype.is_float
    for name in (dtype.code, dtype.code.lower(), *dtype.names):
        assert dtype_named(name) is dtype
        assert dtype_named(f"torch.{name}") is dtype


def test_sizes_of_packed_formats() -> None:
    """Formats of less than a byte count in bits, rounded up."""
    assert [DTYPES["F4"].nbytes(n) for n in range(4)] == [0, 1, 1, 2]
    assert DTYPES["F6_E2M3"].nbytes(4) == 3


def test_unknown_dtype() -> None:
    """A dtype that does not exist is told with those that do."""
    with pytest.raises(CheckpointError, match="bfloat16") as caught:
        dtype_named("fp17")
    assert "fp17" in caught.value.problems[0].message


@pytest.mark.parametrize("code", [c for c, d in DTYPES.items() if d.numpy is not None])
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (2, 3)])
def test_arrays_in_memory(code: str, shape: tuple[int, ...]) -> None:
    """Any dtype and shape, with the bytes that NumPy has."""
    array = np.ones(shape, DTYPES[code].numpy)
    ref = from_arrays("here", {"w": array}).tensors["w"]
    assert (ref.dtype.code, ref.shape, ref.nbytes) == (code, shape, array.nbytes)
    room = bytearray(ref.nbytes)
    with PayloadReader() as reader:
        reader.read(ref, 0, memoryview(room))
    assert bytes(room) == array.tobytes()


def test_arrays_of_any_layout() -> None:
    """A transposed array gives its elements in C order; a contiguous one is shared."""
    base = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = from_arrays("here", {"t": base.T, "c": base}).tensors
    assert found["t"].array is not None
    assert found["c"].array is not None
    assert found["t"].array.tobytes() == base.T.tobytes()
    assert np.shares_memory(found["c"].array, base)


@pytest.mark.parametrize("array", [np.array(["text"]), np.ones(2, ">f4"), np.ones(2, np.complex128)])
def test_arrays_that_have_no_place(array: np.ndarray[tuple[int], np.dtype[np.generic]]) -> None:
    """Text, big-endian numbers and dtypes that safetensors lacks are refused by name."""
    with pytest.raises(CheckpointError) as caught:
        from_arrays("here", {"w": array})
    assert caught.value.problems[0].tensor == "w"


def test_bytes_of_a_checkpoint() -> None:
    """A checkpoint's size is that of its tensors together."""
    arrays = {"a": np.ones(3, np.float32), "b": np.ones(5, ml_dtypes.bfloat16)}
    assert from_arrays("here", arrays).nbytes == 22
