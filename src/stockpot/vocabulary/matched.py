"""Which row of which model every row of a new embedding is made of, by tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stockpot.vocabulary.model import Vocabulary

__all__ = ["ABSENT", "Chosen", "Matching", "Row", "Rows", "match"]

ABSENT = -1

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """A model's vocabulary and the rows of its embedding, of which it may have fewer or more than tokens."""

    vocabulary: Vocabulary
    count: int


@dataclass(frozen=True)
class Row:
    """A row of a model by the model's number; of model None, a row of zeros."""

    model: int | None
    row: int = 0


@dataclass(frozen=True)
class Chosen:
    """Where the embedding of one token comes from, and whether that holds for models that have the token too."""

    row: Row
    force: bool = False


@dataclass(frozen=True)
class Matching:
    """What every row of the result is made of, for each model.

    Args:
        own: (models, rows): each model's own row of the token; :data:`ABSENT` where it has none.
        default: (rows): the model whose row stands in for those that lack it; :data:`ABSENT` for the mean of all that
            have it, or for nothing where none has.
        tokens: Rows that tokens have; the others are padding.
        chosen: Row → what a user chose for it.
    """

    own: Ints
    default: Ints
    tokens: npt.NDArray[np.bool_]
    chosen: Mapping[int, Chosen]

    @property
    def nowhere(self) -> list[int]:
        """Rows of tokens that no model has and no one chose a source for."""
        lost = self.tokens & ~(self.own != ABSENT).any(axis=0)
        return [row for row in np.flatnonzero(lost).tolist() if row not in self.chosen]


def match(
    target: Vocabulary, rows: int, models: Sequence[Rows], base: int | None, chosen: Mapping[int, Chosen]
) -> Matching:
    """Match the tokens of ``target`` with those of ``models``.

    A model's own row comes first; else the base's, where it has one; else that of the only model that has one; else
    the mean of all that have one. Rows without a token are matched by number among the rows that have none.

    Args:
        target: Tokens of the result.
        rows: Rows of the result: at least one for each token.
        models: Those that are merged.
        base: Number of the base among them.
        chosen: Row → what a user chose.
    """
    tokens = np.zeros(rows, np.bool_)
    tokens[list(target.tokens)] = True
    own = np.full((len(models), rows), ABSENT, np.int64)
    for number, model in enumerate(models):
        _match_tokens(own[number], target, model)
        _match_padding(own[number], tokens, model)
    have = own != ABSENT
    default = np.where(have.sum(axis=0) == 1, have.argmax(axis=0), ABSENT)
    if base is not None:
        default[have[base]] = base
    return Matching(own, default, tokens, dict(chosen))


def _match_tokens(own: Ints, target: Vocabulary, model: Rows) -> None:
    ids = model.vocabulary.ids
    found = np.fromiter((ids.get(token, ABSENT) for token in target.tokens.values()), np.int64, len(target.tokens))
    if target.alphabet != model.vocabulary.alphabet:
        _match_by_text(found, target, model.vocabulary)
    found[found >= model.count] = ABSENT
    own[np.fromiter(target.tokens, np.int64, len(target.tokens))] = found


def _match_by_text(found: Ints, target: Vocabulary, other: Vocabulary) -> None:
    """Match tokens that are spelt differently by the text that they stand for; special tokens only as they are."""
    texts: dict[bytes, int] = {}
    for token, number in other.ids.items():
        if token not in other.plain_tokens:
            texts.setdefault(other.text(token), number)
    plain = target.plain_tokens
    for place, token in enumerate(target.tokens.values()):
        if token in plain:
            continue
        if found[place] == ABSENT or token not in other.plain_tokens:
            found[place] = texts.get(target.text(token), ABSENT)


def _match_padding(own: Ints, tokens: npt.NDArray[np.bool_], model: Rows) -> None:
    """Rows that stand for no token, in the result and in the model, by number."""
    free = np.ones(model.count, np.bool_)
    taken = np.fromiter(model.vocabulary.ids.values(), np.int64, len(model.vocabulary.ids))
    free[taken[taken < model.count]] = False
    shared = min(len(own), model.count)
    padding = np.flatnonzero(~tokens[:shared] & free[:shared])
    own[padding] = padding
