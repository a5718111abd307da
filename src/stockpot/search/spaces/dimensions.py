"""One number or choice of a search: its range, its first guess, and places in the range as values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

__all__ = ["Dimension", "Value", "same_value"]

Value = float | int | str | bool

_SLACK = 1e-9
"""How far from a whole number of steps a value may be, in steps: decimal steps are no sums of powers of two."""


@dataclass(frozen=True)
class Dimension:
    """What a search chooses freely.

    Args:
        name: Where it stands, in words; the names of a space differ.
        line: Of the recipe.
        kind: ``float`` and ``int`` have a range, ``choice`` has choices.
        low, high: The range, both ends in it; of choices the numbers of the first and last.
        log: Whether the range is measured by magnitude; ``low`` is above 0 then.
        step: Distance of neighbouring values, from ``low`` on; None takes any.
        choices: The values of a ``choice``; what is no single word or number is its text.
        start: The first guess.
        key: Of the recipe, whose value it is: ``weight``.
        cell: (hole, filter, layers) of one of several values of a hole, in words; None where it is the only one.
    """

    name: str
    line: int
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] = ()
    start: Value = 0.0
    key: str = ""
    cell: tuple[str, str, str] | None = None

    def at(self, place: float) -> Value:
        """The value at ``place`` in [0, 1] of the range, whole and on a step where values are; choices in their order.

        >>> Dimension("w", 1, "float", 0.0, 1.0, step=0.25).at(0.6)
        0.5
        """
        place = min(max(float(place), 0.0), 1.0)
        if self.kind == "choice":
            return self.choices[min(int(place * len(self.choices)), len(self.choices) - 1)]
        if place in (0.0, 1.0) and self.step is None:
            return self._typed(self.low if place == 0.0 else self.high)
        if self.log:
            value = math.exp((1.0 - place) * math.log(self.low) + place * math.log(self.high))
        else:
            value = (1.0 - place) * self.low + place * self.high
        return self.nearest(value)

    def place(self, value: Value) -> float:
        """Where ``value`` is in the range: :meth:`at` of it gives the value again, up to rounding."""
        if self.kind == "choice":
            return (self.index(value) + 0.5) / len(self.choices)
        at, low, high = (math.log(v) if self.log else float(v) for v in (float(value), self.low, self.high))
        return (at - low) / (high - low)

    def index(self, value: Value) -> int:
        """Which of the choices ``value`` is."""
        return next(i for i, choice in enumerate(self.choices) if same_value(choice, value))

    def nearest(self, value: float) -> Value:
        """The value nearest to a number that the dimension may have."""
        value = min(max(float(value), self.low), self.high)
        if self.step is not None:
            most = math.floor((self.high - self.low) / self.step + _SLACK)
            value = min(self.low + min(round((value - self.low) / self.step), most) * self.step, self.high)
        return self._typed(value)

    def wrong(self, value: object) -> str | None:
        """Why it cannot be ``value``; None when it can.

        >>> Dimension("w", 1, "float", 0.0, 1.0).wrong(1.5)
        'w = 1.5 is not in [0.0, 1.0]'
        """
        if self.kind == "choice":
            if any(same_value(value, choice) for choice in self.choices):
                return None
            return f"{self.name} = {value!r} is not one of {', '.join(map(str, self.choices))}"
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            return f"{self.name} = {value!r} is not a number"
        if not self.low <= float(value) <= self.high:
            return f"{self.name} = {value!r} is not in [{self._typed(self.low)!r}, {self._typed(self.high)!r}]"
        if self.kind == "int" and not isinstance(value, Integral) and not float(value).is_integer():
            return f"{self.name} = {value!r} is not a whole number"
        return None

    def _typed(self, value: float) -> Value:
        return round(value) if self.kind == "int" else float(value)


def same_value(a: object, b: object) -> bool:
    """Whether two choices are the same: truth values are no numbers here.

    >>> same_value(1, 1.0), same_value(1, True)
    (True, False)
    """
    return a == b and isinstance(a, bool) == isinstance(b, bool)
