"""Widening is exact, narrowing rounds once: every bit pattern, every midpoint."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import FLOATS, KERNEL_CODES, LARGEST_CODE, SMALL, bits_of, cast_once, from_bits, magnitudes, midpoints
from stockpot.kernels import convert
from stockpot.kernels.convert import ROW


def widened_by_kernel(array, code):
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    out = np.full(array.size, 7.0)
    convert.widen_block(raw, KERNEL_CODES[code], array.size, out, np.zeros(ROW))
    return out


def narrowed_by_kernel(values, code):
    """The stored array, and whether the kernel flagged it; in pieces of a row, as the kernels store."""
    values = np.ascontiguousarray(values, np.float64)
    out = np.zeros(values.size, FLOATS[code])
    raw = out.view(np.uint8)
    width, flagged = out.itemsize, []
    for start in range(0, values.size, ROW):
        piece = values[start : start + ROW]
        part = raw[start * width : (start + len(piece)) * width]
        flagged.append(convert.narrow_block(piece, len(piece), part, KERNEL_CODES[code]))
    return out, np.array(flagged, bool)


def all_patterns(code):
    return from_bits(np.arange(1 << (8 * FLOATS[code].itemsize)), code)


@pytest.mark.parametrize("code", SMALL)
def test_widening_is_exact_for_every_bit_pattern(code):
    """Every bit pattern of a 16- or 8-bit dtype widens to the very value that it stands for, NaN to NaN."""
    patterns = all_patterns(code)
    with np.errstate(invalid="ignore"):
        expected = patterns.astype(np.float64)
    found = widened_by_kernel(patterns, code)
    assert np.array_equal(found, expected, equal_nan=True)
    zeros = expected == 0
    assert np.array_equal(np.signbit(found[zeros]), np.signbit(expected[zeros]))
    assert np.isnan(found).sum() > 0


@pytest.mark.parametrize("code", ["F32", "F64"])
def test_widening_single_and_double_is_exact(code):
    """F32 and F64 widen to themselves, subnormals, infinities and the largest values included."""
    dtype = FLOATS[code]
    info = np.finfo(dtype)
    values = np.array([0.0, -0.0, info.tiny, info.smallest_subnormal, -info.max, info.max, np.inf, -np.inf, 1.1], dtype)
    found = widened_by_kernel(values, code)
    assert np.array_equal(found, values.astype(np.float64))
    assert np.array_equal(np.signbit(found), np.signbit(values))


@pytest.mark.parametrize("code", SMALL)
def test_every_value_survives_the_round_trip(code):
    """Widening and narrowing again gives the same bits back, for every finite value and infinity."""
    patterns = all_patterns(code)
    patterns = patterns[~np.isnan(patterns.astype(np.float32))]
    back, _ = narrowed_by_kernel(widened_by_kernel(patterns, code), code)
    assert np.array_equal(bits_of(back), bits_of(patterns))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("code", SMALL)
def test_narrowing_rounds_every_midpoint_and_its_neighbours_once(code, sign):
    """Between any two stored values: the midpoint goes to the even one, what lies beside it to the nearer one.

    The neighbours are one float64 step from the midpoint, so rounding by way of float32 would fail.
    """
    middle = midpoints(code)
    lower = np.arange(len(middle))
    even = lower + lower % 2
    for values, places in (
        (middle, even),
        (np.nextafter(middle, 0.0), lower),
        (np.nextafter(middle, np.inf), lower + 1),
    ):
        found, flagged = narrowed_by_kernel(sign * values, code)
        finite = places <= LARGEST_CODE[code]
        magnitude = bits_of(found) & ((1 << (8 * found.itemsize - 1)) - 1)
        assert np.array_equal(magnitude[finite], places[finite])
        assert np.all(np.signbit(found.astype(np.float64)) == (sign < 0))
        beyond = found[~finite].astype(np.float64)
        assert np.all(np.isnan(beyond) if code == "F8_E4M3" else np.isinf(beyond))
        assert flagged.any() == (not finite.all())


@pytest.mark.parametrize("code", SMALL)
def test_the_reference_rounding_agrees_with_ml_dtypes_on_float32_values(code):
    """The table that these tests round by is right: on float32 inputs ml_dtypes and NumPy round once too."""
    rng = np.random.default_rng(0)
    values = (rng.normal(size=20000) * 2.0 ** rng.integers(-30, 18, 20000)).astype(np.float32)
    values = np.concatenate([values, midpoints(code)[midpoints(code) < 3e38].astype(np.float32)])
    with np.errstate(over="ignore"):
        expected = values.astype(FLOATS[code])
    assert np.array_equal(
        cast_once(values.astype(np.float64), code).astype(np.float64), expected.astype(np.float64), equal_nan=True
    )


def test_narrowing_does_not_round_twice():
    """1 + 2⁻⁸ + 2⁻⁴⁰ is above the middle of two bfloat16 values; by way of float32 it would become a tie."""
    value = 1.0 + 2.0**-8 + 2.0**-40
    found, _ = narrowed_by_kernel(np.array([value]), "BF16")
    assert float(found[0]) == 1.0 + 2.0**-7
    assert float(np.array(value).astype(ml_dtypes.bfloat16)) == 1.0  # what a cast that rounds twice gives


@pytest.mark.parametrize("code", list(FLOATS))
@given(data=st.data())
def test_narrowing_any_float64_is_the_nearest_stored_value(code, data):
    """Whatever the float64, the stored value is that of a table look-up; not finite is flagged, and only that."""
    numbers = st.floats(width=64, allow_nan=False, allow_infinity=False)
    values = np.array(data.draw(st.lists(numbers, min_size=1, max_size=40)))
    found, flagged = narrowed_by_kernel(values, code)
    expected = cast_once(values, code)
    assert np.array_equal(found.astype(np.float64), expected.astype(np.float64), equal_nan=True)
    assert flagged.any() == (not np.all(np.isfinite(expected.astype(np.float64))))


@pytest.mark.parametrize("code", list(FLOATS))
def test_overflow_is_infinite_and_flagged(code):
    """Beyond the largest value stands infinity (NaN in E4M3, which has none), and the kernel says so."""
    largest = np.finfo(np.float64).max if code == "F64" else float(ml_dtypes.finfo(FLOATS[code]).max)
    for sign in (1.0, -1.0):
        found, flagged = narrowed_by_kernel(np.array([0.5, sign * largest]), code)
        assert not flagged.any()
        assert found[1].astype(np.float64) == sign * largest
        beyond = np.array([0.5, sign * np.inf if code == "F64" else sign * largest * 1.1])
        found, flagged = narrowed_by_kernel(beyond, code)
        assert flagged.all()
        value = found[1].astype(np.float64)
        assert np.isnan(value) if code == "F8_E4M3" else value == sign * np.inf


@pytest.mark.parametrize("code", list(FLOATS))
def test_nan_stays_nan_and_is_flagged(code):
    """NaN narrows to NaN, whatever its payload, also one that lies in the low bits alone."""
    payloads = np.array([0x7FF8000000000000, 0xFFF8000000000000, 0x7FF0000000000001, 0x7FFFFFFFFFFFFFFF], np.uint64)
    for value in payloads.view(np.float64):
        found, flagged = narrowed_by_kernel(np.array([1.0, value, 2.0]), code)
        assert flagged.all()
        assert np.array_equal(np.isnan(found.astype(np.float64)), [False, True, False])


@pytest.mark.parametrize("code", SMALL)
def test_subnormals_and_the_sign_of_zero_survive(code):
    """What is below half the smallest value becomes a zero of the same sign; half of it is a tie, to even zero."""
    least = magnitudes(code)[1]
    values = np.array([0.0, -0.0, least, -least, least / 2, -least / 2, np.nextafter(least / 2, 1.0), -least * 0.4])
    found, flagged = narrowed_by_kernel(values, code)
    assert not flagged.any()
    assert np.array_equal(found.astype(np.float64), [0.0, 0.0, least, -least, 0.0, 0.0, least, 0.0])
    assert np.array_equal(np.signbit(found.astype(np.float64)), np.signbit(values))
