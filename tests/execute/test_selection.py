"""TIES keeps exactly the k largest, ties by index, in whatever arrangement; and in few passes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stockpot as sp
from reference import kept_count, trim_mask
from stockpot.execute import statistics
from stockpot.execute.select import Selection
from stockpot.planning import blocks

ELEMENTS = 300_007


def search(keys, keep, size, sample=None, room=1 << 21):
    """The search over blocks of ``size`` keys, each pass counted in plain NumPy."""
    count = -(-len(keys) // size)
    found = Selection(keep, len(keys), count, room)
    if sample is not None:
        found.guess(np.asarray(sample, np.uint32))
    while found.cut is None:
        low, high = found.low, found.high
        for b in range(count):
            part = keys[b * size : (b + 1) * size]
            inside = part[(part > low) & (part < high)]
            at_low = 0 if low == high else np.count_nonzero(part == low)
            counts = [np.count_nonzero(part > high), np.count_nonzero(part == high), len(inside), at_low]
            found.add(b, np.array(counts), inside)
        found.settle()
    return found


def kept_by(cut, keys, size):
    """Which keys a cut keeps: those above it, and of its ties those that each block is told to keep."""
    mask = keys > cut.threshold
    for b, start in enumerate(range(0, len(keys), size)):
        part = keys[start : start + size]
        tied = np.flatnonzero(part == cut.threshold)[: cut.kept_ties(b, len(part))]
        mask[start + tied] = True
    return mask


arrangements = st.one_of(
    st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=400),
    st.lists(st.integers(0, 3), min_size=2, max_size=400),  # massive ties
    st.lists(st.sampled_from([0, 0x7F7FFFFF]), min_size=2, max_size=200),
    st.integers(2, 300).map(lambda n: [0] * n),
    st.lists(st.integers(0, 30), min_size=2, max_size=300).map(lambda e: [2**x for x in sorted(e)]),
)


@given(arrangements, st.data())
def test_the_cut_is_that_of_a_stable_sort(keys, data):
    """Whatever keys, block size and sample: kept are the first k of a stable sort by magnitude, k exactly.

    The sample may mislead completely and the room for collected keys is tiny; neither changes the outcome,
    and four guesses and 31 halvings of the 31-bit range are the most that is ever needed.
    """
    keys = np.array(keys, np.uint32)
    keep = data.draw(st.integers(0, len(keys)))
    size = data.draw(st.integers(1, len(keys)))
    sample = data.draw(st.none() | st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=len(keys) - 1))
    found = search(keys, keep, size, sample, data.draw(st.sampled_from([1, 4, 50, 1 << 21])))
    expected = np.zeros(len(keys), bool)
    expected[np.argsort(-keys.astype(np.int64), kind="stable")[:keep]] = True
    assert np.array_equal(kept_by(found.cut, keys, size), expected)
    assert found.passes <= 4 + 31


def test_a_good_sample_needs_one_pass():
    """With a fair sample, a million keys are settled by one pass over them."""
    rng = np.random.default_rng(0)
    keys = np.abs(rng.normal(size=1_000_000)).astype(np.float32).view(np.uint32)
    found = search(keys, 200_000, 1 << 18, rng.choice(keys, 100_000))
    assert found.passes == 1
    assert np.count_nonzero(keys > found.cut.threshold) < 200_000 <= np.count_nonzero(keys >= found.cut.threshold)


def _spread(rng):
    return rng.normal(size=ELEMENTS)


def _unsampled_peaks(_rng):
    """All large entries lie between the places that a sample looks at."""
    values = np.full(ELEMENTS, 1e-3)
    values[5000:9000] = 1.0 + np.arange(4000) / 1e5
    values[14000:18000] = 2.0
    return values


def _near_one_value(rng):
    """Far more keys near the cut than there is room to collect."""
    return 1.0 + rng.integers(0, 500, ELEMENTS) * 2.0**-23


ARRANGEMENTS = {
    "normal": _spread,
    "ascending": lambda rng: np.sort(np.abs(_spread(rng))),
    "descending": lambda rng: -np.sort(np.abs(_spread(rng)))[::-1],
    "all zero": lambda _: np.zeros(ELEMENTS),
    "all equal": lambda _: np.full(ELEMENTS, -0.25),
    "three values": lambda rng: rng.integers(-1, 2, ELEMENTS) * 0.5,
    "mostly zero": lambda rng: np.where(rng.random(ELEMENTS) < 1e-3, 1.0, 0.0),
    "peaks that no sample sees": _unsampled_peaks,
    "crowded around the cut": _near_one_value,
}


@pytest.mark.parametrize("room", [64, 1 << 21])
@pytest.mark.parametrize("density", [0.2, 0.5, 1 - 1e-5])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_ties_keeps_exactly_the_largest(arrangement, density, room, monkeypatch):
    """Over many blocks, what TIES keeps of one model is what a stable argsort keeps, to the entry.

    That holds for massive ties, all zeros, arrangements that mislead the sample, and when almost nothing
    of what lies inside the bracket can be collected.
    """
    monkeypatch.setattr(blocks, "BLOCK", 1 << 14)
    monkeypatch.setattr(statistics, "CAPACITY", room)
    delta = ARRANGEMENTS[arrangement](np.random.default_rng(1)).astype(np.float32)
    base = np.zeros_like(delta)
    a, b = sp.open({"w": delta}, name="a"), sp.open({"w": base}, name="b")
    made = sp.compute(b + sp.ties(a - b, density=density), threads=2)["w"]
    expected = np.where(trim_mask(delta.astype(np.float64), density), delta, np.float32(0))
    assert np.array_equal(made, expected)


@pytest.mark.parametrize("elements", [1, 2, 3, 7, 2048, 2049, 4099])
@pytest.mark.parametrize("density", [0.0, 1e-9, 0.3, 0.5, 0.9999999, 1.0])
def test_ties_keeps_round_of_density_times_n_of_a_small_tensor(elements, density):
    """k = round(density × n), halves up, at least one unless density is 0; all magnitudes equal shows the count."""
    delta = np.where(np.arange(elements) % 2, 1.0, -1.0).astype(np.float32)
    a, b = sp.open({"w": delta}, name="a"), sp.open({"w": np.zeros_like(delta)}, name="b")
    made = sp.compute(b + sp.ties(a - b, density=density))["w"]
    k = kept_count(density, elements)
    assert np.array_equal(made[:k], delta[:k])
    assert not made[k:].any()


def test_each_model_is_cut_at_its_own_place(monkeypatch):
    """With several models and densities, each is trimmed as if it were alone, in one shared pass."""
    monkeypatch.setattr(blocks, "BLOCK", 1 << 14)
    monkeypatch.setattr(statistics, "CAPACITY", 640)
    rng = np.random.default_rng(5)
    ds = [ARRANGEMENTS[name](rng).astype(np.float32) for name in ("normal", "three values", "crowded around the cut")]
    density = [0.1, 0.4, 0.7]
    base = sp.open({"w": np.zeros(ELEMENTS, np.float32)}, name="base")
    models = [sp.open({"w": d}, name=str(i)) - base for i, d in enumerate(ds)]
    made = sp.compute(base + sp.ties(*models, density=density, weight=[1.0, 16.0, 256.0], normalize=False))["w"]
    kept = [np.where(trim_mask(d, p), d.astype(np.float64), 0.0) for d, p in zip(ds, density, strict=True)]
    weighted = [w * k for w, k in zip([1.0, 16.0, 256.0], kept, strict=True)]
    positive = sum(weighted) >= 0
    expected = sum(np.where((w > 0) == positive, w, 0.0) for w in weighted)
    assert np.array_equal(made, expected.astype(np.float32))
