"""The hash of a tensor is a function of its bytes, not of how they came."""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from stockpot.checkpoint import tensorhash
from stockpot.checkpoint.tensorhash import TensorHash

SMALL = 8


@pytest.fixture(autouse=True, scope="module")
def small_pieces():
    """Pieces of a few bytes, so that a short tensor has many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorhash, "PIECE", SMALL)
        yield


def definition(data, piece=SMALL):
    """xxh3-128 of the xxh3-128 digests of the pieces, one after the other."""
    digests = [xxhash.xxh3_128_digest(data[i : i + piece]) for i in range(0, len(data), piece)]
    return xxhash.xxh3_128_hexdigest(b"".join(digests))


def data_of(nbytes):
    return np.random.default_rng(nbytes).bytes(nbytes)


sizes = st.sampled_from([0, 1, SMALL - 1, SMALL, SMALL + 1, 2 * SMALL, 3 * SMALL - 1, 5 * SMALL + 3])


@st.composite
def deliveries(draw):
    """(nbytes, ranges that cover all of them in any order, some of them twice or overlapping)."""
    nbytes = draw(sizes)
    cuts = sorted(draw(st.sets(st.integers(0, nbytes), max_size=8)) | {0, nbytes})
    ranges = list(pairwise(cuts))
    place = st.integers(0, nbytes)
    ranges += [(min(a, b), max(a, b)) for a, b in draw(st.lists(st.tuples(place, place), max_size=6))]
    return nbytes, draw(st.permutations(ranges))


@given(deliveries())
def test_any_way_gives_the_hash_of_the_definition(delivery):
    """Any cut, order, overlap or repetition; and what is complete waits for nothing."""
    nbytes, ranges = delivery
    data = data_of(nbytes)
    found = TensorHash(nbytes)
    for start, stop in ranges:
        found.add(start, memoryview(data)[start:stop])
    assert found.missing() is None
    assert found.hexdigest() == definition(data)
    assert found._parts == {}


@given(deliveries(), st.randoms(use_true_random=False))
def test_what_is_missing_is_told(delivery, chosen):
    """After some of the bytes, missing() names a piece that is not whole; giving that on and on completes the hash."""
    nbytes, ranges = delivery
    data = data_of(nbytes)
    found = TensorHash(nbytes)
    given_bytes = bytearray(nbytes)
    for start, stop in chosen.sample(ranges, len(ranges) // 2):
        found.add(start, memoryview(data)[start:stop])
        given_bytes[start:stop] = b"\1" * (stop - start)
    while (missing := found.missing()) is not None:
        start, length = missing
        assert start % SMALL == 0
        assert 0 < length <= SMALL
        assert 0 in given_bytes[start : start + length]
        with pytest.raises(ValueError, match="missing"):
            found.hexdigest()
        found.add(start, memoryview(data)[start : start + length])
        given_bytes[start : start + length] = b"\1" * length
    assert found.hexdigest() == definition(data)


@given(sizes.filter(bool), st.data())
def test_the_first_time_counts(nbytes, drawn):
    """Bytes that are given again with other values do not change what is known of their piece."""
    data = data_of(nbytes)
    found = TensorHash(nbytes)
    for start in range(nbytes):
        found.add(start, memoryview(data)[start : start + 1])
        begin = drawn.draw(st.integers(0, start))
        found.add(begin, memoryview(bytes(start + 1 - begin)))
    assert found.hexdigest() == definition(data)


@given(sizes.filter(bool), st.data())
def test_every_byte_counts(nbytes, drawn):
    """One bit more or less, anywhere, is another hash."""
    data = bytearray(data_of(nbytes))
    before = definition(bytes(data))
    data[drawn.draw(st.integers(0, nbytes - 1))] ^= 1 << drawn.draw(st.integers(0, 7))
    found = TensorHash(nbytes)
    found.add(0, memoryview(data))
    assert found.hexdigest() == definition(bytes(data)) != before


@pytest.mark.parametrize("seed", range(4))
def test_many_threads_at_once(seed):
    """Threads that give overlapping parts of the same pieces at the same time come to the same hash."""
    nbytes = 700 * SMALL + 5
    data = data_of(nbytes)
    chosen = random.Random(seed)
    cuts = [0, *sorted(chosen.sample(range(1, nbytes), 900)), nbytes]
    ranges = [*pairwise(cuts)] * 2 + [(a, min(nbytes, a + 30)) for a in cuts[:-1:3]]
    chosen.shuffle(ranges)
    found = TensorHash(nbytes)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda r: found.add(r[0], memoryview(data)[r[0] : r[1]]), ranges))
    finally:
        sys.setswitchinterval(before)
    assert found.hexdigest() == definition(data)
    assert found._parts == {}


@pytest.mark.parametrize("nbytes", [(1 << 19) - 1, 1 << 19, (1 << 20) + 1])
def test_the_real_pieces(nbytes, monkeypatch):
    """With pieces of their real size, around its multiples."""
    monkeypatch.setattr(tensorhash, "PIECE", 1 << 19)
    data = data_of(nbytes)
    found = TensorHash(nbytes)
    for start in reversed(range(0, nbytes, 100_003)):
        found.add(start, memoryview(data)[start : start + 100_003])
    assert found.hexdigest() == definition(data, 1 << 19)
