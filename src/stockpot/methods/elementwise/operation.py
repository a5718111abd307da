"""Operations: what an atom becomes for the row kernel, and the statistics it needs before it can run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from stockpot.kernels.codes import MAGNITUDES
from stockpot.methods.declare import Floats

__all__ = ["NUMBERS", "Need", "Operation", "Ranks", "Sums", "operation"]

NUMBERS = 5
"""Numbers that an operation has for each input."""

Row = tuple[float, ...]


@dataclass(frozen=True)
class Ranks:
    """Order statistics of keys over the tensor, or over the whole model.

    Args:
        wanted: (number of elements) → for each search the row of keys it looks at and how many of the
            largest are meant, as a real number. Over a model it is asked for all elements at once, or, where
            tensors differ in their parameters, for each tensor, and these numbers are added up.
        whole: (search, that number, number of elements) → the rank, 1 being the largest; 0 means none.
        kind: What is ranked, of :mod:`stockpot.kernels.codes`.
        then: (operation, values of shape (searches,)) → operation, for values that become numbers; None
            for cuts, which keep entries by their keys and places. Search s of a cut belongs to the
            input s mod inputs; later ones are second cuts.
        idle: Whether nothing has to be looked for (all ranks are 0 or the number of elements).
    """

    wanted: Callable[[int], tuple[tuple[int, float], ...]]
    whole: Callable[[int, float, int], int]
    kind: int = MAGNITUDES
    then: Callable[[Operation, Floats], Operation] | None = None
    idle: bool = False


@dataclass(frozen=True)
class Sums:
    """Sums over the tensor, or over the whole model, of what the operations before have left.

    Args:
        then: (operation, sums of shape (inputs, COLUMNS), number of elements) → operation.
        counts: Whether the counting columns are wanted, or the norms and squares.
        means: Whether each tensor's sums are divided by its size before they are added up over a model.
    """

    then: Callable[[Operation, Floats, int], Operation]
    counts: bool = False
    means: bool = False


Need = Ranks | Sums


@dataclass(frozen=True)
class Operation:
    """One operation.

    Args:
        code: Of :mod:`stockpot.kernels.codes`.
        numbers: NUMBERS rows with one number for each input; what they mean depends on the code.
        needs: Statistics that must be known before it can run, in order.
        prepare: Numbers that it needs for each element, which are made from whole rows of the tensor:
            ``chances`` (of numbers[2] ± numbers[3]) or ``divergence`` (numbers[2] is added to probabilities).
    """

    code: int
    numbers: tuple[Row, ...]
    needs: tuple[Need, ...] = ()
    prepare: Literal["chances", "divergence"] | None = None

    def put(self, place: int, values: Row) -> Operation:
        """The operation with row ``place`` of its numbers replaced."""
        rows = list(self.numbers)
        rows[place] = tuple(float(v) for v in values)
        return replace(self, numbers=tuple(rows))


def operation(code: int, models: int, *rows: Row, **more: object) -> Operation:
    """An operation whose first numbers are ``rows``; those that are not given are 1."""
    ones = (1.0,) * models
    return Operation(code, (*rows, *(ones for _ in range(NUMBERS - len(rows)))), **more)  # type: ignore[arg-type]
