"""Curves over a number, and figures against each other, as SVG within a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stockpot.evaluate.page import escaped, ticks
from stockpot.evaluate.table import number, shown

__all__ = ["Curve", "curves", "scatter"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 700, 320, 64, 180, 14, 44
_COLOURS = ("#0b62c4", "#c4540b", "#1d8a4a", "#8a3ab9", "#b3261e", "#5b6770", "#0e8a94", "#a0780c")
_APART = 15
"""Pixels between two labels."""
_NAME_WIDTH = 90
"""Pixels that the name of a point takes, at least."""


@dataclass(frozen=True)
class Curve:
    """One line of a plot.

    Args:
        name: As its label has it.
        points: (number, figure, low, high), by number; those that failed are absent.
    """

    name: str
    points: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class _Scale:
    """From values to pixels along one axis."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float) -> _Scale:
        low, high = min(values), max(values)
        margin = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
        return cls(low - margin, high + margin, start, end)

    def __call__(self, value: float) -> float:
        return round(self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low), 1)


def curves(given: Sequence[Curve], across: str, up: str, marked: float | None = None) -> str:
    """Lines with their intervals; empty when nothing was measured.

    Args:
        across, up: What the axes are.
        marked: The number that was chosen, if one was.
    """
    lines = [curve for curve in given if curve.points]
    if not lines:
        return ""
    x = _Scale.of([p[0] for c in lines for p in c.points], _LEFT, _WIDTH - _RIGHT)
    y = _Scale.of([v for c in lines for p in c.points for v in p[1:]], _HEIGHT - _BOTTOM, _TOP)
    parts = [*_frame(x, y, across, up)]
    if marked is not None:
        at = x(marked)
        parts.append(f'<line x1="{at}" y1="{_TOP}" x2="{at}" y2="{_HEIGHT - _BOTTOM}" class="chosen"/>')
    parts += [part for i, curve in enumerate(lines) for part in _line(curve, x, y, _COLOURS[i % len(_COLOURS)])]
    return "".join([*parts, *_labels(lines, y), "</svg>"])


def _line(curve: Curve, x: _Scale, y: _Scale, colour: str) -> Iterator[str]:
    path = " ".join(f"{x(at)},{y(value)}" for at, value, _, _ in curve.points)
    band = [f"{x(at)},{y(high)}" for at, _, _, high in curve.points]
    band += [f"{x(at)},{y(low)}" for at, _, low, _ in reversed(curve.points)]
    yield f'<polygon points="{" ".join(band)}" fill="{colour}" fill-opacity="0.12"/>'
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for at, value, _, _ in curve.points:
        told = f"{escaped(curve.name)} at {number(at)}: {number(value)}"
        yield f'<circle cx="{x(at)}" cy="{y(value)}" r="3" fill="{colour}"><title>{told}</title></circle>'


def _labels(lines: Sequence[Curve], y: _Scale) -> Iterator[str]:
    """Names beside the ends of their lines, moved apart where they would overlap."""
    wanted = sorted((y(curve.points[-1][1]), i) for i, curve in enumerate(lines))
    place = float("-inf")
    for at, i in wanted:
        place = max(at, place + _APART)
        name, colour = escaped(shown(lines[i].name)[-24:]), _COLOURS[i % len(_COLOURS)]
        yield f'<text x="{_WIDTH - _RIGHT + 8}" y="{round(place + 4, 1)}" style="fill: {colour}">{name}</text>'


def scatter(points: Sequence[tuple[str, float, float]], across: str, up: str, marked: str | None = None) -> str:
    """Points (name, x, y) in order, joined by a line, some of them named; empty when there are none.

    Args:
        marked: Name of the point that was chosen, if one was.
    """
    if not points:
        return ""
    x = _Scale.of([p[1] for p in points], _LEFT, _WIDTH - _RIGHT)
    y = _Scale.of([p[2] for p in points], _HEIGHT - _BOTTOM, _TOP)
    path = " ".join(f"{x(px)},{y(py)}" for _, px, py in points)
    parts = [*_frame(x, y, across, up), f'<polyline points="{path}" fill="none" class="axis"/>']
    for name, px, py in points:
        size = 6 if name == marked else 4
        told = f"{escaped(name)}: {number(px)}, {number(py)}"
        parts.append(f'<circle class="dot" cx="{x(px)}" cy="{y(py)}" r="{size}"><title>{told}</title></circle>')
    wanted = {points[0][0], points[-1][0], marked}
    parts += _named([(name, x(px), y(py)) for name, px, py in points if name in wanted])
    return "".join([*parts, "</svg>"])


def _named(points: Sequence[tuple[str, float, float]]) -> Iterator[str]:
    """Names beside points, moved down where they would overlap."""
    placed: list[tuple[float, float]] = []
    for name, x, y in sorted(points, key=lambda point: point[2]):
        near = [at for there, at in placed if abs(there - x) < _NAME_WIDTH]
        place = max([y, *(at + _APART for at in near)])
        placed.append((x, place))
        yield f'<text x="{round(x + 9, 1)}" y="{round(place + 4, 1)}">{escaped(shown(name))}</text>'


def _frame(x: _Scale, y: _Scale, across: str, up: str) -> Iterator[str]:
    """The opening tag, both axes with their numbers, and what they are."""
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    yield f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escaped(f"{up} over {across}")}">'
    for value in ticks(x.low, x.high):
        yield f'<line class="axis" x1="{x(value)}" y1="{_TOP}" x2="{x(value)}" y2="{floor}"/>'
        yield f'<text class="dim" x="{x(value)}" y="{floor + 16}" text-anchor="middle">{number(value)}</text>'
    for value in ticks(y.low, y.high):
        yield f'<line class="axis" x1="{_LEFT}" y1="{y(value)}" x2="{right}" y2="{y(value)}"/>'
        yield f'<text class="dim" x="{_LEFT - 8}" y="{y(value) + 4}" text-anchor="end">{number(value)}</text>'
    yield f'<text class="dim" x="{(_LEFT + right) / 2}" y="{floor + 36}" text-anchor="middle">{escaped(across)}</text>'
    middle = (_TOP + floor) / 2
    yield (
        f'<text class="dim" x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
        f"{escaped(up)}</text>"
    )
