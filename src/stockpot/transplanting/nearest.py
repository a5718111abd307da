"""Which of many rows point most in the direction of given vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stockpot.transplanting.table import TILE, Floats, Ints, Rows, Singles

__all__ = ["Pool", "strongest", "top"]


@dataclass(frozen=True)
class Pool:
    """Rows to choose from.

    Args:
        table: The matrix that they are rows of.
        numbers: Their numbers in it, ascending.
        lengths: Their Euclidean lengths; rows of length 0 are never chosen.
    """

    table: Rows
    numbers: Ints
    lengths: Floats

    def unit(self, places: Ints) -> Floats:
        """Members ``places`` scaled to length 1, (len(places), width)."""
        rows = self.table.take(self.numbers[places])
        rows /= self.lengths[places, None]
        return rows

    def cosines(self, directions: Singles) -> Iterator[tuple[int, Singles]]:
        """(first place, cosines of all directions with the members from there on), in float32, tile by tile."""
        inverse = np.zeros(len(self.lengths), np.float32)
        np.divide(1.0, self.lengths, out=inverse, where=self.lengths > 0, casting="same_kind")
        for start in range(0, len(self.numbers), TILE):
            stop = min(start + TILE, len(self.numbers))
            cosines = directions @ self.table.singles(self.numbers[start:stop]).T
            cosines *= inverse[start:stop]
            yield start, cosines


def _slack(width: int) -> np.float32:
    """How far float32 may be from the true cosine: eight times the spread of its rounding errors."""
    return np.float32(8 * np.sqrt(width) * 2.0**-24)


def strongest(directions: Floats, pool: Pool, taken: Ints) -> Ints:
    """Place of the member whose cosine with each direction is largest in magnitude.

    Cosines are float32; those within its rounding error of the largest are compared again in float64, so that the
    choice is that of float64. Of equals the first is chosen.

    Args:
        directions: Vectors of length 1, (n, width).
        taken: Places that each may not choose, (n, any), -1 for none.

    Returns:
        (n,), -1 where nothing is left to choose from or every cosine is 0.
    """
    slack = _slack(pool.table.width)
    best = np.zeros(len(directions), np.float32)
    close: list[tuple[Ints, Ints, Singles]] = []
    for start, cosines in pool.cosines(directions.astype(np.float32)):
        np.abs(cosines, out=cosines)
        rows, columns = np.nonzero((taken >= start) & (taken < start + cosines.shape[1]))
        cosines[rows, taken[rows, columns] - start] = 0.0
        np.maximum(best, cosines.max(axis=1), out=best)
        floor = np.maximum(best - slack, np.finfo(np.float32).tiny)
        who, where = np.nonzero(cosines >= floor[:, None])
        close.append((who, where + start, cosines[who, where]))
    return _decided(directions, pool, best - slack, close)


def _decided(directions: Floats, pool: Pool, floor: Singles, close: list[tuple[Ints, Ints, Singles]]) -> Ints:
    """The best of those that are ``close``: (direction, place, cosine in float32)."""
    who, where, cosines = (np.concatenate(parts) for parts in zip(*close, strict=True))
    kept = np.flatnonzero(cosines >= floor[who])
    kept = kept[np.lexsort((where[kept], who[kept]))]
    who, where = who[kept], where[kept]
    found = np.full(len(directions), -1, np.int64)
    alone = np.bincount(who, minlength=len(directions)) == 1
    found[who[alone[who]]] = where[alone[who]]
    rivals = np.flatnonzero(~alone[who])
    exact = np.empty(len(rivals))
    for i in range(0, len(rivals), TILE):
        part = rivals[i : i + TILE]
        exact[i : i + TILE] = np.abs(np.einsum("nd,nd->n", directions[who[part]], pool.unit(where[part])))
    order = np.lexsort((where[rivals], -exact, who[rivals]))
    contenders = who[rivals][order]
    first = np.flatnonzero(np.diff(contenders, prepend=-1))
    found[contenders[first]] = where[rivals][order][first]
    return found


def top(directions: Floats, pool: Pool, k: int) -> tuple[Ints, Floats]:
    """The ``k`` members nearest to each direction, and their cosines in float64, largest first, (n, k).

    Args:
        k: At most the number of members.
    """
    reach = min(k + 8, len(pool.numbers))
    values = np.full((len(directions), reach), -np.inf, np.float32)
    places = np.zeros((len(directions), reach), np.int64)
    for start, cosines in pool.cosines(directions.astype(np.float32)):
        here = np.arange(start, start + cosines.shape[1])
        values, places = _largest(
            np.concatenate((values, cosines), axis=1),
            np.concatenate((places, np.broadcast_to(here, cosines.shape)), axis=1),
            reach,
        )
    exact = np.empty(values.shape)
    for place in range(reach):
        unit = np.zeros((len(directions), pool.table.width))
        some = np.flatnonzero(pool.lengths[places[:, place]] > 0)
        unit[some] = pool.unit(places[some, place])
        exact[:, place] = np.einsum("nd,nd->n", directions, unit)
    order = np.lexsort((places, -exact))[:, :k]
    return np.take_along_axis(places, order, 1), np.take_along_axis(exact, order, 1)


def _largest(values: Singles, places: Ints, k: int) -> tuple[Singles, Ints]:
    """The ``k`` largest of each row."""
    if values.shape[1] <= k:
        return values, places
    chosen = np.argpartition(-values, k - 1, axis=1)[:, :k]
    return np.take_along_axis(values, chosen, 1), np.take_along_axis(places, chosen, 1)
