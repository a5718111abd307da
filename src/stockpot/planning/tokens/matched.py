"""Two vocabularies, and where each row of an embedding for the one comes from in a model that has the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from stockpot.planning.tokens.transplanted import HELD, KINDS, Origins
from stockpot.transplanting.pairing import Pairing
from stockpot.transplanting.pieces import Cutter
from stockpot.transplanting.table import Ints
from stockpot.vocabulary.model import Vocabulary

__all__ = ["Matched", "origins_of"]

_TOKEN, _MERGE = 300, 200
"""Bytes that a token and a merge take in the maps that are made of vocabularies to match them (measured)."""


@dataclass(frozen=True)
class Matched:
    """The two vocabularies, and what each row of the result is.

    Args:
        new, old: The vocabulary that the model gets, and the one that it has.
        pairing: Which tokens are alike.
        origins: Where each row comes from.
        known: Rows of the model's embedding.
    """

    new: Vocabulary
    old: Vocabulary
    pairing: Pairing
    origins: Origins
    known: int

    @property
    def rows(self) -> int:
        """Rows of the new embedding."""
        return len(self.origins.kinds)

    @property
    def nbytes(self) -> int:
        """Bytes that matching the vocabularies takes."""
        both = (self.new, self.old)
        return sum(_TOKEN * len(v.ids) + _MERGE * len(v.merges) for v in both)


def origins_of(pairing: Pairing, new: Vocabulary, old: Vocabulary, method: str, known: int) -> Origins:
    """Where the rows come from, of which ``known`` are the model's."""
    copied, made, mean = (KINDS.index(kind) for kind in ("copied", "made", "mean"))
    kinds = np.where(pairing.ours >= 0, copied, np.where(pairing.named, made, mean)).astype(np.int8)
    common = pairing.common
    count = min(HELD, len(common) // 10 or int(len(common) > 1))
    held = common[np.arange(count) * len(common) // max(1, count)]
    starts, pieces = _nothing(len(kinds))
    held_starts, held_pieces = _nothing(count)
    if method == "subword":
        cutter, copies = Cutter(old), frozenset(pairing.ours.tolist())
        texts = (new.text(new.tokens[i]) if kinds[i] == made else b"" for i in range(len(kinds)))
        starts, pieces = _packed(_apart(_known(cutter.cut(text), known), copies) for text in texts)
        kinds[(kinds == made) & (np.diff(starts) == 0)] = mean
        own = ((new.text(new.tokens[int(i)]), int(pairing.ours[i])) for i in held)
        held_starts, held_pieces = _packed(_known(cutter.cut(text, like), known) for text, like in own)
    return Origins(kinds, pairing.ours, common, held, starts, pieces, held_starts, held_pieces)


def _nothing(count: int) -> tuple[Ints, Ints]:
    return np.zeros(count + 1, np.int64), np.empty(0, np.int64)


def _known(pieces: tuple[int, ...], known: int) -> tuple[int, ...]:
    return tuple(piece for piece in pieces if piece < known)


def _apart(pieces: tuple[int, ...], copies: frozenset[int]) -> tuple[int, ...]:
    """None instead of a single row that another token has already: the two would share their probability."""
    return () if len(pieces) == 1 and pieces[0] in copies else pieces


def _packed(rows: Iterable[tuple[int, ...]]) -> tuple[Ints, Ints]:
    """Where each row begins, and all of them one after another."""
    starts, flat = [0], list[int]()
    for row in rows:
        flat.extend(row)
        starts.append(len(flat))
    return np.array(starts, np.int64), np.array(flat, np.int64)
