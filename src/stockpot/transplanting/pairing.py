"""Which token of one vocabulary is which of another: by what they stand for, and by their roles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from stockpot.transplanting.table import Ints
from stockpot.vocabulary.model import Vocabulary

__all__ = ["Pairing", "pair"]

_Key = tuple[bytes, bool, bool]
"""What a token stands for; whether it is special; whether it is one byte, spelt as its number."""


@dataclass(frozen=True, eq=False)
class Pairing:
    """What each row of a new embedding is in an old one.

    Args:
        ours: Number in the old vocabulary of each token of the new one, -1 for none, (rows,).
        roles: Number of each token that was paired by its role alone → the role.
        named: Whether a row has a token at all, (rows,).
    """

    ours: Ints
    roles: Mapping[int, str]
    named: np.ndarray[tuple[int], np.dtype[np.bool_]]

    @property
    def common(self) -> Ints:
        """Numbers of the new tokens that the old vocabulary has under the same text, ascending."""
        found = self.ours >= 0
        found[list(self.roles)] = False
        return np.flatnonzero(found)


def pair(new: Vocabulary, old: Vocabulary, rows: int, known: int) -> Pairing:
    """Each token of ``new`` with its like in ``old``.

    Tokens are alike that stand for the same bytes, however they are spelt (``Ġa``, ``▁a``); special ones only when
    they are so in both. ``A`` and ``<0x41>`` are alike only where the new vocabulary has not both: two rows that are
    the same would share their probability. Of several in the old one the lowest number is taken. A token with a role,
    such as ``eos_token``, that has no like takes that of the same role.

    Args:
        rows: Rows of the new embedding.
        known: Rows of the old embedding; tokens beyond have none, and are like no other.
    """
    ours, named = np.full(rows, -1, np.int64), np.zeros(rows, np.bool_)
    likes: dict[_Key, int] = {}
    for number, key in sorted(_keys(old)):
        if number < known:
            likes.setdefault(key, number)
    keys = dict(_keys(new))
    all_keys = set(keys.values())
    for number, (text, special, single) in keys.items():
        if number < rows:
            named[number] = True
            other = (text, special, not single)
            otherwise = -1 if other in all_keys else likes.get(other, -1)
            ours[number] = likes.get((text, special, single), otherwise)
    return Pairing(ours, dict(_by_role(new, old, ours, known)), named)


def _keys(vocabulary: Vocabulary) -> Iterator[tuple[int, _Key]]:
    special = {token.id for token in vocabulary.added if token.special}
    special |= {vocabulary.ids[t] for t in vocabulary.roles.values() if t in vocabulary.ids}
    for number, token in vocabulary.tokens.items():
        text = vocabulary.text(token)
        single = vocabulary.alphabet == "metaspace" and len(text) == 1 and len(token) == 6
        yield number, (text, number in special, single)


def _by_role(new: Vocabulary, old: Vocabulary, ours: Ints, known: int) -> Iterator[tuple[int, str]]:
    """Pair in ``ours`` what is left, by role."""
    for role, token in sorted(new.roles.items()):
        number, like = new.ids.get(token, -1), old.ids.get(old.roles.get(role, ""), -1)
        if 0 <= number < len(ours) and ours[number] < 0 and 0 <= like < known:
            ours[number] = like
            yield number, role
