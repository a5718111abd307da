"""Words as numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["PAD", "UNKNOWN", "Ids", "Vocabulary", "words"]

Ids = npt.NDArray[np.int64]
"""``(texts, length)``, filled up with :data:`PAD` on the right."""

PAD, UNKNOWN = 0, 1

_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")


def words(text: str) -> list[str]:
    """Words in small letters, and signs.

    >>> words("It's no 3-legged FILM.")
    ['it', "'", 's', 'no', '3', '-', 'legged', 'film', '.']
    """
    return _WORD.findall(text.lower())


class Vocabulary:
    """The most frequent words of some texts, equally frequent ones by the alphabet.

    >>> Vocabulary(["a b a", "c"], size=4).ids(["c a z", "b"], length=4).tolist()
    [[1, 2, 1, 0], [3, 0, 0, 0]]

    Args:
        size: Words that are known, :data:`PAD` and :data:`UNKNOWN` included.
    """

    def __init__(self, texts: Iterable[str], size: int) -> None:
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(words(text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))[: size - 2]
        self.size = size
        self._numbers: Mapping[str, int] = {word: number for number, word in enumerate(ranked, 2)}

    def ids(self, texts: Sequence[str], length: int) -> Ids:
        """The first ``length`` words of each text."""
        found = np.full((len(texts), length), PAD, np.int64)
        for row, text in enumerate(texts):
            own = [self._numbers.get(word, UNKNOWN) for word in words(text)[:length]]
            found[row, : len(own)] = own
        return found
