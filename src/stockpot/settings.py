"""Parameter values as users write them: a number, a gradient over depth, or values by name filter.

``0.3`` is the same everywhere. ``[0, 0.5, 1]`` is a gradient: piecewise linear over depth, 0 at the
first layer and 1 at the last. ``[{filter: mlp, value: …}, {value: …}]`` takes the first entry whose
filter occurs in the tensor's name. Filters and gradients nest.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from stockpot.errors import ExpressionError, Problem

__all__ = ["Case", "Setting", "Value", "as_plain", "as_setting", "first_value"]

Value = float | bool | str

_ROUNDING = 4 * sys.float_info.epsilon
"""Relative error of a place among anchors, i / (n - 1) * (m - 1): one that is meant to be an anchor is that anchor."""


@dataclass(frozen=True)
class Case:
    """One entry of a filtered setting: ``value`` where ``filter`` occurs in the name (None: always)."""

    filter: str | None
    value: Value | tuple[float, ...]


@dataclass(frozen=True)
class Setting:
    """A parameter as written; ``cases`` has one entry without a filter for plain values and gradients."""

    cases: tuple[Case, ...]
    line: int | None = None

    def at(self, name: str, depth: float) -> Value | None:
        """Value for tensor ``name`` at ``depth`` in [0, 1]; None when no filter matches.

        >>> as_setting([0.0, 1.0]).at("w", 0.25)
        0.25
        """
        for case in self.cases:
            if case.filter is None or case.filter == "*" or case.filter in name:
                return _along(case.value, depth)
        return None

    def values(self) -> tuple[Value, ...]:
        """Every number that stands in it, for range checks."""
        found: list[Value] = []
        for case in self.cases:
            found.extend(case.value if isinstance(case.value, tuple) else (case.value,))
        return tuple(found)


def first_value(settings: Iterable[Setting], name: str, depth: float) -> Value | None:
    """The first setting that has a value for ``name``: the order of ``settings`` is the precedence."""
    for setting in settings:
        value = setting.at(name, depth)
        if value is not None:
            return value
    return None


def as_setting(value: Any, line: int | None = None) -> Setting:
    """A :class:`Setting` from plain Python or YAML data.

    Raises:
        ExpressionError: when ``value`` is none of the three forms.
    """
    if isinstance(value, Setting):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        if all(isinstance(v, dict) for v in value):
            return Setting(tuple(_case(v, line) for v in value), line)
        return Setting((Case(None, _gradient(value, line)),), line)
    if isinstance(value, dict):
        return Setting((_case(value, line),), line)
    return Setting((Case(None, _scalar(value, line)),), line)


def as_plain(setting: Setting) -> Any:
    """``setting`` as JSON data that :func:`as_setting` reads; numbers that are not finite are words.

    >>> as_plain(as_setting([{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}]))
    [{'value': [0.0, 1.0], 'filter': 'mlp'}, {'value': 0.5}]
    """
    cases = [
        {"value": [_word(v) for v in case.value] if isinstance(case.value, tuple) else _word(case.value)}
        | ({} if case.filter is None else {"filter": case.filter})
        for case in setting.cases
    ]
    return cases[0]["value"] if len(cases) == 1 and "filter" not in cases[0] else cases


def _word(value: Value) -> Value:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _case(entry: dict[str, Any], line: int | None) -> Case:
    if "value" not in entry or not entry.keys() <= {"filter", "value"}:
        raise _unreadable(entry, line)
    value = entry["value"]
    where = entry.get("filter")
    if where is not None and not isinstance(where, str):
        raise _unreadable(entry, line)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return Case(where, _gradient(value, line))
    return Case(where, _scalar(value, line))


def _gradient(values: Sequence[Any], line: int | None) -> tuple[float, ...]:
    numbers = [_scalar(v, line) for v in values]
    if not numbers or any(isinstance(n, str) for n in numbers):
        raise _unreadable(values, line)
    return tuple(float(n) for n in numbers)


def _scalar(value: Any, line: int | None) -> Value:
    if isinstance(value, bool):
        return value
    if isinstance(value, Real):  # also NumPy's numbers
        try:
            return float(value)
        except OverflowError:
            return -math.inf if value < 0 else math.inf  # out of every range, which is reported with its line
    if isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 reads 1e-5 as a string
        except ValueError:
            return value
    raise _unreadable(value, line)


def _unreadable(value: Any, line: int | None) -> ExpressionError:
    fix = "a number, a list of numbers (gradient over depth), or a list of {filter:, value:}"
    return ExpressionError(Problem(f"not a parameter value: {value!r}", line=line, fix=fix))


def _along(value: Value | tuple[float, ...], depth: float) -> Value:
    if not isinstance(value, tuple):
        return value
    if len(value) == 1:
        return value[0]
    place = min(max(depth, 0.0), 1.0) * (len(value) - 1)
    nearest = round(place)
    if abs(place - nearest) <= _ROUNDING * place:
        return value[nearest]
    index = min(int(place), len(value) - 2)
    part = place - index
    return (1.0 - part) * value[index] + part * value[index + 1]
