"""What tokens were matched with, as maps of rows, and told in numbers and in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.planning.tokens.rows import MEAN, RowMap, row_map
from stockpot.vocabulary.matched import ABSENT, Matching

__all__ = ["Kinds", "counts_of", "kinds_of", "ranges_of", "row_maps"]

OWN, TAKEN, AVERAGED, ZERO, PADDING = range(5)

Kinds = npt.NDArray[np.int8]
Ints = npt.NDArray[np.int64]


def kinds_of(matching: Matching, number: int) -> tuple[Kinds, Ints, Ints]:
    """How each row of model ``number`` is made: its kind, and for rows of one model that model and its row."""
    own, default = matching.own[number], matching.default
    rows = len(default)
    model = np.where(own != ABSENT, number, default)
    at = np.where(own != ABSENT, own, matching.own[default, np.arange(rows)])
    kind = np.where(own != ABSENT, OWN, TAKEN).astype(np.int8)
    many = (own == ABSENT) & (default == ABSENT)
    any_has = (matching.own != ABSENT).any(axis=0)
    kind[many] = AVERAGED
    kind[many & ~any_has] = PADDING
    for row, choice in matching.chosen.items():
        if own[row] != ABSENT and not choice.force:
            continue
        if choice.row.model is None:
            kind[row] = ZERO
        else:
            kind[row] = OWN if (choice.row.model, choice.row.row) == (number, own[row]) else TAKEN
            model[row], at[row] = choice.row.model, choice.row.row
    return kind, model, at


def row_maps(matching: Matching, number: int, count: int) -> tuple[RowMap, tuple[int, ...]] | None:
    """The rows of model ``number`` for the new vocabulary, and the models of its operands, itself first.

    Args:
        count: Rows that its embedding has; None is returned when these stay as they are.
    """
    kind, model, at = kinds_of(matching, number)
    rows = len(kind)
    if count == rows and bool((kind == OWN).all()) and bool((at == np.arange(rows)).all()):
        return None
    averaged = np.flatnonzero(kind == AVERAGED)
    have = (matching.own[:, averaged] != ABSENT).T  # (averaged rows, models)
    sizes = np.ones(rows, np.int64)
    sizes[kind == ZERO] = 0
    sizes[averaged] = have.sum(axis=1)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    source = np.full(starts[-1], number, np.int64)
    which = np.full(starts[-1], MEAN, np.int64)
    factor = np.ones(starts[-1])
    single = np.flatnonzero((kind == OWN) | (kind == TAKEN))
    source[starts[single]], which[starts[single]] = model[single], at[single]
    place, giver = np.nonzero(have)
    entries = _entries(starts, averaged, sizes)
    source[entries], which[entries] = giver, matching.own[giver, averaged[place]]
    factor[entries] = 1.0 / np.repeat(sizes[averaged], sizes[averaged])
    others = sorted(set(np.unique(source).tolist()) - {number})
    order = (number, *others)
    operand = np.zeros(len(matching.own) + 1 + max(order), np.int16)
    operand[list(order)] = range(len(order))
    return row_map(starts, operand[source], which, factor), order


def _entries(starts: Ints, rows: Ints, sizes: Ints) -> Ints:
    """Places of all entries of ``rows``, in order."""
    if not len(rows):
        return np.empty(0, np.int64)
    return np.concatenate([np.arange(starts[row], starts[row] + sizes[row]) for row in rows.tolist()])


def counts_of(matching: Matching, labels: Sequence[str], number: int) -> dict[str, Any]:
    """How many rows of model ``number`` come from where."""
    kind, model, _ = kinds_of(matching, number)
    taken = kind == TAKEN
    return {
        "own": int((kind == OWN).sum()),
        "taken": {labels[j]: int((taken & (model == j)).sum()) for j in sorted(set(model[taken].tolist()))},
        "means": int((kind == AVERAGED).sum()),
        "zeros": int((kind == ZERO).sum()),
        "padding": int((kind == PADDING).sum()),
    }


def ranges_of(matching: Matching, labels: Sequence[str], number: int) -> list[list[Any]]:
    """Where every row of model ``number`` comes from: [first, last + 1, what, first row there] for each run."""
    kind, model, at = kinds_of(matching, number)
    return [list(run) for run in _told(matching, labels, kind, model, at)]


def _told(matching: Matching, labels: Sequence[str], kind: Kinds, model: Ints, at: Ints) -> Iterator[tuple[Any, ...]]:
    single = (kind == OWN) | (kind == TAKEN)
    follows = (kind[1:] == kind[:-1]) & (kind[1:] != AVERAGED)
    follows &= ~single[1:] | ((model[1:] == model[:-1]) & (at[1:] == at[:-1] + 1))
    bounds = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(kind)]
    for first, last in pairwise(bounds):
        if single[first]:
            yield first, last, labels[int(model[first])], int(at[first])
        elif kind[first] == AVERAGED:
            own = matching.own[:, first]
            yield first, last, {labels[j]: int(own[j]) for j in np.flatnonzero(own != ABSENT).tolist()}
        else:
            yield first, last, "zero" if kind[first] == ZERO else "mean row"
