"""Random words are Philox4x32-10 and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from reference import philox, random_words
from stockpot.kernels.random import philox_block
from stockpot.kernels.sizes import ROW

KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
"""The known-answer vectors that come with Random123."""


def words_of(first_row, rows, key):
    out = np.zeros(rows * ROW, np.uint32)
    philox_block(first_row, rows, key[0], key[1], out)
    return out


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_the_reference_is_philox(counter, key, expected):
    """The pure Python Philox that the kernels are compared with gives the published answers."""
    assert philox(counter, key) == expected


def test_the_kernel_gives_the_published_answer():
    """Counter 0 and key 0 give the published words, at the first place of each quarter of row 0."""
    words = words_of(0, 1, (0, 0))
    assert tuple(int(words[q * ROW // 4]) for q in range(4)) == KNOWN[0][2]


@pytest.mark.parametrize("row", [0, 1, 5, 2**23 - 1, 2**23, 2**40 + 3])
@pytest.mark.parametrize("key", [(0, 0), (2**32 - 1, 2**32 - 1), (0x12345678, 0x9ABCDEF0)])
def test_every_word_is_that_of_its_counter(row, key):
    """Element p of a row is output p // 512 of counter row × 512 + p mod 512, also beyond 2³² counters."""
    words = words_of(row, 1, key)
    quarter = ROW // 4
    for place in (0, 1, 2, quarter - 1, quarter, 2 * quarter + 7, 3 * quarter, ROW - 1):
        counter = row * quarter + place % quarter
        expected = philox((counter % 2**32, counter >> 32, 0, 0), key)[place // quarter]
        assert int(words[place]) == expected


def test_rows_do_not_depend_on_how_they_are_drawn():
    """Rows drawn together and one by one are the same words, and those of the vectorised reference."""
    key = (7, 11)
    together = words_of(0, 4, key)
    apart = np.concatenate([words_of(r, 1, key) for r in range(4)])
    assert np.array_equal(together, apart)
    assert np.array_equal(together.astype(np.uint64), random_words(4 * ROW, key))


def test_words_are_uniform():
    """Over a million words, each of 64 equal bins holds its share within five standard deviations."""
    words = words_of(0, 512, (1, 2))
    counts = np.bincount(words >> 26, minlength=64)
    expected = words.size / 64
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
