"""Figures that have units of their own, each on a strip: its values, their middle, another's figure, what is asked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stockpot.evaluate.page import escaped
from stockpot.evaluate.table import number
from stockpot.search.plots.frame import Scale, key, shortened, spaced, width_of

__all__ = ["Strip", "strips"]

_WIDTH, _LEFT, _RIGHT, _HEAD, _ROW = 700, 12, 12, 26, 62
_HALF = 8
"""Half the height of what is drawn on a strip."""

_VALUE = '<circle class="trial" r="4"/>'
_MIDDLE = f'<line class="bar" y1="-{_HALF}" y2="{_HALF}"/>'
_MISSED = f'<line class="bar missed" y1="-{_HALF}" y2="{_HALF}"/>'
_OTHER = '<path class="model" d="M0 -5L5 0L0 5L-5 0Z"/>'
_ASKED = f'<rect class="asked" x="-6" y="-{_HALF}" width="12" height="{2 * _HALF}"/>'


@dataclass(frozen=True)
class Strip:
    """One figure.

    Args:
        name: What it is.
        values: Each of those that were measured; what is not finite is not drawn.
        middle: What counts of them.
        other: What somebody else has measured; None where nobody has.
        low, high: Bounds that are asked for; None for no bound.
        holds: Whether the middle is within them.
    """

    name: str
    values: tuple[float, ...]
    middle: float
    other: float | None = None
    low: float | None = None
    high: float | None = None
    holds: bool = True

    @property
    def asked(self) -> bool:
        """Whether it has a bound."""
        return self.low is not None or self.high is not None


def strips(given: Sequence[Strip], *, value: str, middle: str, other: str, asked: str) -> str:
    """A strip for each, one below the other, each by a scale of its own; empty without any.

    Args:
        value, middle, other, asked: What the signs mean, in words.
    """
    if not given:
        return ""
    height = _HEAD + _ROW * len(given)
    told = escaped(f"{middle}, {value} and {other}: {len(given)} figures")
    signs = [(_VALUE, value), (_MIDDLE, middle)]
    if any(one.other is not None for one in given):
        signs.append((_OTHER, other))
    if any(one.asked for one in given):
        signs.append((_ASKED, asked))
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{told}">', *key(signs, _LEFT, 14)]
    for i, one in enumerate(given):
        parts += _strip(one, _HEAD + i * _ROW, other)
    return "".join([*parts, "</svg>"])


def _strip(one: Strip, top: float, other: str) -> Iterator[str]:
    known = [v for v in (one.other, one.low, one.high) if v is not None]
    x = Scale.of([*one.values, one.middle, *known], _LEFT, _WIDTH - _RIGHT)
    centre, floor = top + 28, top + 28 + _HALF + 2
    words = escaped(shortened(one.name, _WIDTH - _LEFT - _RIGHT))
    yield f'<text x="{_LEFT}" y="{top + 14}">{words}<title>{escaped(one.name)}</title></text>'
    if one.asked:
        yield _bounds(one, x, centre)
    yield f'<line class="axis" x1="{x.start}" y1="{floor}" x2="{x.end}" y2="{floor}"/>'
    widest = max((width_of(number(at)) for at in x.ticks), default=0.0)
    for at in spaced(x.ticks, x.end - x.start, widest + 24):
        yield f'<line class="axis" x1="{x(at)}" y1="{floor}" x2="{x(at)}" y2="{floor + 4}"/>'
        yield f'<text class="dim" x="{x(at)}" y="{floor + 15}" text-anchor="middle">{number(at)}</text>'
    for at in filter(math.isfinite, one.values):
        yield _sign(_VALUE, x(at), centre, number(at))
    if math.isfinite(one.middle):
        yield _sign(_MIDDLE if one.holds else _MISSED, x(one.middle), centre, number(one.middle))
    if one.other is not None:
        yield _sign(_OTHER, x(one.other), centre, f"{other}: {number(one.other)}")


def _bounds(one: Strip, x: Scale, centre: float) -> str:
    left = x.start if one.low is None else x(one.low)
    right = x.end if one.high is None else x(one.high)
    wide = round(right - left, 1)
    return f'<rect class="asked" x="{left}" y="{centre - _HALF}" width="{wide}" height="{2 * _HALF}"/>'


def _sign(sign: str, at: float, centre: float, told: str) -> str:
    return f'<g transform="translate({at} {centre})">{sign}<title>{escaped(told)}</title></g>'
