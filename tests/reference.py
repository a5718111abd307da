"""Reference values, computed independently of the implementation: plain NumPy in float64, cast once.

``cast_once`` is the only rounding: from float64 to a stored dtype, to nearest, ties to even. It looks
values up in the sorted table of everything that the dtype can hold, so it shares nothing with the
kernels; ml_dtypes is used for names and tables only, since its own cast rounds twice (by way of float32).
"""

from __future__ import annotations

import hashlib
from functools import cache

import ml_dtypes
import numpy as np

FLOATS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
SMALL = ("BF16", "F16", "F8_E4M3", "F8_E5M2")
KERNEL_CODES = {code: number for number, code in enumerate(FLOATS)}

LARGEST_CODE = {"BF16": 0x7F7F, "F16": 0x7BFF, "F8_E4M3": 0x7E, "F8_E5M2": 0x7B}
"""Bit pattern of the largest finite value; the next one is infinity, or NaN in F8_E4M3."""

WORD = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def code_of(dtype):
    """Name in a safetensors header of a NumPy dtype."""
    return next(code for code, known in FLOATS.items() if known == np.dtype(dtype))


def from_bits(bits, code):
    """The array whose bit patterns are ``bits``."""
    dtype = FLOATS[code]
    return np.asarray(bits).astype(WORD[dtype.itemsize]).view(dtype)


def bits_of(array):
    """The bit patterns of an array, as unsigned integers."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(WORD[flat.dtype.itemsize]).reshape(np.shape(array))


@cache
def magnitudes(code):
    """Every finite magnitude of a small dtype in order, and then the step beyond the largest.

    Place in the table and bit pattern are the same number, so the last bit of the place says what is even.
    """
    finite = from_bits(np.arange(LARGEST_CODE[code] + 1), code).astype(np.float64)
    return np.append(finite, 2 * finite[-1] - finite[-2])


@cache
def midpoints(code):
    """Halfway between each magnitude and the next; exact in float64."""
    table = magnitudes(code)
    return table[:-1] + (table[1:] - table[:-1]) / 2


def cast_once(values, code):
    """``values`` (float64) as dtype ``code``: rounded once, to nearest, ties to even; overflow is inf or NaN."""
    values = np.asarray(values, np.float64)
    if code == "F64":
        return values.copy()
    if code == "F32":
        with np.errstate(over="ignore", under="ignore"):
            return values.astype(np.float32)  # the processor's own conversion rounds once
    size = np.abs(values)
    middle = midpoints(code)
    below = np.searchsorted(middle, size, side="left")  # how many midpoints lie below: the nearest magnitude
    tie = middle[np.minimum(below, len(middle) - 1)] == size
    place = below + (tie & (below % 2 == 1))  # of a tie, side="left" gives the lower neighbour
    bits = np.where(np.isnan(values), LARGEST_CODE[code] + 1, place).astype(np.uint64)
    sign = np.signbit(values).astype(np.uint64) << np.uint64(8 * FLOATS[code].itemsize - 1)
    cast = from_bits(bits | sign, code)
    cast = np.where(np.isnan(values), np.array(np.nan).astype(FLOATS[code]), cast)
    return cast.reshape(values.shape)


def widened(array):
    """A stored array as float64, through the table of its values: exact."""
    array = np.asarray(array)
    code = code_of(array.dtype)
    if code not in SMALL:
        return array.astype(np.float64)
    bits = bits_of(array).astype(np.int64)
    sign_bit = 1 << (8 * array.dtype.itemsize - 1)
    place = bits & (sign_bit - 1)
    assert np.all(place <= LARGEST_CODE[code]), "finite values only"
    return np.where(bits & sign_bit, -1.0, 1.0) * magnitudes(code)[place]


def ulps(a, b):
    """Largest distance of two arrays of one dtype, in steps of that dtype; ±0 are one value."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    if a.size == 0:
        return 0
    top = 1 << (8 * a.dtype.itemsize - 1)

    def place(array):
        bits = [int(v) for v in bits_of(array).reshape(-1)] if a.dtype.itemsize == 8 else None
        if bits is not None:
            return np.array([v if v < top else top - v for v in bits], object)
        wide = bits_of(array).reshape(-1).astype(np.int64)
        return np.where(wide < top, wide, top - wide)

    return int(np.max(np.abs(place(a) - place(b))))


def same(a, b):
    """Whether two arrays have one dtype, one shape and equal values (±0 are equal, NaN is not)."""
    return a.dtype == b.dtype and a.shape == b.shape and bool(np.all(widened(a) == widened(b)))


def between(made, value, slack):
    """Whether each stored entry is a cast of something within ``slack`` of its float64 value."""
    code = code_of(made.dtype)
    low, high = (widened(cast_once(value + sign * slack, code)) for sign in (-1.0, 1.0))
    return (low <= widened(made)) & (widened(made) <= high)


def same_bytes(a, b):
    """Whether two maps of arrays have the same names in the same order, dtypes, shapes and bytes."""
    return list(a) == list(b) and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes() for n in a
    )


def weights(rng, shape, code, *, sd=0.05, around=None, apart=0.01):
    """Random weights of a dtype; with ``around``, a fine-tune of it whose entries differ by about ``apart``."""
    values = rng.normal(0.0, sd, shape) if around is None else widened(around) + rng.normal(0.0, apart, shape)
    return cast_once(values, code)


# --- random numbers -------------------------------------------------------------------------------------


def philox(counter, key):
    """Philox4x32-10 of Salmon et al. (2011): four 32-bit words from a counter of four and a key of two."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 1 << 32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % (1 << 32), (k[1] + 0xBB67AE85) % (1 << 32)]
    return tuple(c)


def random_words(elements, key):
    """One word per element: row e // 2048 has 512 counters, whose four outputs are its four quarters."""
    e = np.arange(elements, dtype=np.uint64)
    row, place = e // np.uint64(2048), e % np.uint64(2048)
    counter = row * np.uint64(512) + place % np.uint64(512)
    low, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    c = [counter & mask, counter >> low, np.zeros_like(counter), np.zeros_like(counter)]
    k = [np.uint64(key[0]), np.uint64(key[1])]
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> low) ^ c[1] ^ k[0], p1 & mask, (p0 >> low) ^ c[3] ^ k[1], p0 & mask]
        k = [(k[0] + np.uint64(0x9E3779B9)) & mask, (k[1] + np.uint64(0xBB67AE85)) & mask]
    return np.choose((place // np.uint64(512)).astype(np.int64), c)


def random_key(seed, tensor, model):
    """Two words from everything that a mask depends on but the element: BLAKE2b of the parts with lengths."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (str(seed), tensor, model):
        digest.update(len(part.encode()).to_bytes(8, "little"))
        digest.update(part.encode())
    number = int.from_bytes(digest.digest(), "little")
    return number % (1 << 32), number >> 32


def drop_mask(shape, density, *, seed, tensor, model):
    """Entries that DARE keeps: those whose word is below density × 2^32; all of them at density 1."""
    words = random_words(int(np.prod(shape)), random_key(seed, tensor, model))
    kept = np.ones(words.shape, bool) if density == 1.0 else words < np.uint64(int(density * 2.0**32))
    return kept.reshape(shape)


# --- methods, from their formulas ----------------------------------------------------------------------


def kept_count(density, elements):
    """How many entries a density keeps: round(density × n), halves up; at least one unless density is 0."""
    return 0 if density == 0.0 else min(elements, max(1, int(np.floor(density * elements + 0.5))))


def trim_mask(delta, density):
    """The k entries of largest magnitude (compared as float32), of equal ones those of smallest index."""
    flat = np.abs(delta).astype(np.float32).reshape(-1)
    order = np.argsort(-flat, kind="stable")
    mask = np.zeros(flat.size, bool)
    mask[order[: kept_count(density, flat.size)]] = True
    return mask.reshape(np.shape(delta))


def linear(models, weights, *, normalize=True):
    """Σ wᵢ xᵢ / Σ wᵢ."""
    total = np.zeros(np.shape(models[0]))
    for x, w in zip(models, weights, strict=True):
        total = total + w * widened(x)
    return total / sum(weights) if normalize else total


def deltas(models, base):
    """xᵢ − θ₀ in float64."""
    return [widened(x) - widened(base) for x in models]


def task_arithmetic(base, models, weights, scale=1.0):
    """θ₀ + λ Σ wᵢ (xᵢ − θ₀)."""
    total = np.zeros(np.shape(base))
    for d, w in zip(deltas(models, base), weights, strict=True):
        total = total + w * d
    return widened(base) + scale * total


def slerp_factors(a, b, t):
    """sin((1−t)Ω)/sin Ω and sin(tΩ)/sin Ω along the last axis; 1 − t and t where Ω or a vector is 0."""
    length_a, length_b = (np.sqrt(np.sum(x * x, axis=-1, keepdims=True)) for x in (a, b))
    zero = (length_a == 0.0) | (length_b == 0.0)
    # From the difference of unit vectors, which is accurate for small angles where arccos is not.
    u, v = a / np.where(zero, 1.0, length_a), b / np.where(zero, 1.0, length_b)
    apart, together = (np.sqrt(np.sum(x * x, axis=-1, keepdims=True)) for x in (u - v, u + v))
    omega = 2.0 * np.arctan2(apart, together)
    flat = zero | (np.sin(omega) < 1e-12)
    below = np.where(flat, 1.0, np.sin(omega))
    first = np.where(flat, 1.0 - t, np.sin((1.0 - t) * omega) / below)
    return first, np.where(flat, t, np.sin(t * omega) / below)


def slerp(a, b, t):
    """Shoemake's slerp of two float64 arrays as one vector each."""
    first, second = slerp_factors(a.reshape(-1), b.reshape(-1), t)
    return first.reshape(()) * a + second.reshape(()) * b


def slerp_along(a, b, t, axis):
    """Slerp of each vector along ``axis`` (0 or -1) on its own."""
    if np.ndim(a) == 0:
        return slerp(a, b, t)
    x, y = np.moveaxis(a, axis, -1), np.moveaxis(b, axis, -1)
    first, second = slerp_factors(x, y, t)
    return np.moveaxis(first * x + second * y, -1, axis)


def model_stock_ratio(group):
    """t = N c / (1 + (N − 1) c) in [0, 1] along the last axis, c the mean pairwise cosine; 0 with a zero vector."""
    n = len(group)
    norms = [np.sqrt(np.sum(d * d, axis=-1, keepdims=True)) for d in group]
    zero = np.minimum.reduce(norms) == 0.0
    safe = [np.where(zero, 1.0, length) for length in norms]
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    cosines = [np.sum(group[i] * group[j], axis=-1, keepdims=True) / (safe[i] * safe[j]) for i, j in pairs]
    c = sum(cosines) / len(cosines)
    below = 1.0 + (n - 1) * c
    undefined = zero | (below <= 0.0)
    return np.where(undefined, 0.0, np.clip(n * c / np.where(undefined, 1.0, below), 0.0, 1.0))


def model_stock(base, models, *, filter_wise=False):
    """θ₀ + t × mean(xᵢ − θ₀), one t per tensor or per row."""
    ds = deltas(models, base)
    if filter_wise and np.ndim(base) > 0:
        return widened(base) + model_stock_ratio(ds) * (sum(ds) / len(ds))
    ratio = model_stock_ratio([d.reshape(-1) for d in ds]).reshape(())
    return widened(base) + ratio * (sum(ds) / len(ds))


def elect(parts, lean=0.0):
    """Entries whose sign is that of their sum (a sum of 0 counts as +), the others set to 0.

    ``lean`` moves the border by that share of the summed magnitudes: with −lean and +lean one gets both
    outcomes of a sum that is 0 but for rounding.
    """
    positive = sum(parts) >= lean * sum(np.abs(p) for p in parts)
    return [np.where((p > 0.0) == positive, p, 0.0) for p in parts]


def ties(base, models, weights, density, *, normalize=True, rescale=False, unweighted=False, scale=1.0):
    """θ₀ + λ × disjoint mean of the elected, weighted, trimmed task vectors."""
    parts = []
    for d, share in zip(deltas(models, base), density, strict=True):
        kept = np.where(trim_mask(d, share), d, 0.0)
        if rescale and np.sum(np.abs(kept)) > 0.0:
            kept = kept * (np.sum(np.abs(d)) / np.sum(np.abs(kept)))
        parts.append(kept)
    if unweighted:
        agreeing = elect(parts)
        divisor = sum((p != 0.0).astype(np.float64) for p in agreeing)
        total = sum(w * p for w, p in zip(weights, agreeing, strict=True))
    else:
        agreeing = elect([w * p for w, p in zip(weights, parts, strict=True)])
        divisor = sum(w * (p != 0.0) for w, p in zip(weights, agreeing, strict=True))
        total = sum(agreeing)
    if normalize:
        total = total / np.where(divisor == 0.0, 1.0, divisor)
    return widened(base) + scale * total


def dare(base, models, weights, masks, density, *, rescale=True, normalize=False, elects=False, lean=0.0, scale=1.0):
    """θ₀ + λ Σ wᵢ mᵢ (xᵢ − θ₀) / densityᵢ; with ``elects``, only of entries whose sign agrees."""
    parts = []
    for d, w, m, share in zip(deltas(models, base), weights, masks, density, strict=True):
        parts.append(np.where(m, w * d / (share if rescale and share > 0.0 else 1.0), 0.0))
    if elects:
        parts = elect(parts, lean)
    total = sum(parts)
    if normalize:
        divisor = sum(w * (p != 0.0) for w, p in zip(weights, parts, strict=True)) if elects else sum(weights)
        total = total / np.where(divisor == 0.0, 1.0, divisor)
    return widened(base) + scale * total
