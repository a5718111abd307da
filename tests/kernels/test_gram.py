"""Inner products: right to float64, summed in one fixed order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reference import FLOATS, KERNEL_CODES, cast_once, widened
from stockpot.kernels import gram
from stockpot.kernels.sizes import ROW

LANES = 64


def packed(arrays):
    """Inputs as the kernels take them: one row of bytes each, as wide as the widest, and their codes."""
    width = max(a.dtype.itemsize for a in arrays)
    raw = np.zeros((len(arrays), arrays[0].size * width), np.uint8)
    for row, a in zip(raw, arrays, strict=True):
        row[: a.nbytes] = np.ascontiguousarray(a).reshape(-1).view(np.uint8)
    codes = np.array([KERNEL_CODES[next(c for c, d in FLOATS.items() if d == a.dtype)] for a in arrays])
    return raw, codes


def gram_of(arrays, rows, length, base=None):
    raw, codes = packed([*arrays, base] if base is not None else arrays)
    count = len(arrays)
    out = np.full((rows, count, count), 9.0)
    gram.gram_rows(raw, codes, rows, length, count if base is not None else -1, count, out, np.empty((count + 3, ROW)))
    return out


def laned(a, b):
    """The documented order: 64 interleaved partial sums for each 2048 elements, added up in turn."""
    total = 0.0
    for start in range(0, len(a), ROW):
        x, y = a[start : start + ROW], b[start : start + ROW]
        lanes = np.zeros(LANES)
        whole = len(x) - len(x) % LANES
        for i in range(0, whole, LANES):
            lanes = lanes + x[i : i + LANES] * y[i : i + LANES]
        rest = len(x) - whole
        lanes[:rest] = lanes[:rest] + x[whole:] * y[whole:]
        part = 0.0
        for lane in lanes:
            part += float(lane)
        total += part
    return total


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 2047, 2048, 2049, 10007])
@pytest.mark.parametrize("code", list(FLOATS))
def test_inner_products_are_summed_in_the_documented_order(code, n):
    """Each product is, to the last bit, the sum in 64 lanes over pieces of 2048: no other order, no fused adds."""
    rng = np.random.default_rng(n)
    arrays = [cast_once(rng.normal(size=n), code) for _ in range(3)]
    out = gram_of(arrays, 1, n)
    for i in range(3):
        for j in range(i, 3):
            assert out[0, i, j] == laned(widened(arrays[i]), widened(arrays[j]))


def test_inner_products_are_right():
    """Products of differences to a base agree with exact summation to a few float64 roundings."""
    rng = np.random.default_rng(3)
    base = cast_once(rng.normal(size=5000), "F32")
    arrays = [cast_once(widened(base) + rng.normal(0, 1e-3, 5000), code) for code in ("F32", "BF16")]
    out = gram_of(arrays, 1, 5000, base)
    d = [widened(a) - widened(base) for a in arrays]
    for i, j in ((0, 0), (0, 1), (1, 1)):
        exact = math.fsum((d[i] * d[j]).tolist())
        assert abs(out[0, i, j] - exact) <= 1e-13 * math.fsum(np.abs(d[i] * d[j]).tolist())


@pytest.mark.parametrize(("rows", "length"), [(1, 7), (7, 1), (3, 2048), (2, 5000), (13, 17)])
def test_rows_and_columns_have_products_of_their_own(rows, length):
    """Each row (and each column) of a block gets the inner products of that row (column) alone."""
    rng = np.random.default_rng(rows * length)
    arrays = [rng.normal(size=(rows, length)) for _ in range(2)]
    found = gram_of(arrays, rows, length)
    raw, codes = packed(arrays)
    columns = np.empty((2, 2, length))
    gram.gram_columns(raw, codes, rows, length, -1, 2, columns, np.empty((5, ROW)))
    for i, j in ((0, 0), (0, 1), (1, 1)):
        products = arrays[i] * arrays[j]
        assert np.allclose(found[:, i, j], products.sum(axis=1), rtol=1e-12, atol=1e-13)
        assert np.allclose(columns[i, j], products.sum(axis=0), rtol=1e-12, atol=1e-13)
